"""The libraries that run a network's forward pass, all behind `base.Tower`."""
