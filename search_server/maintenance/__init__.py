"""Delete stored images that no item uses."""
