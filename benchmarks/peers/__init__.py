"""Other systems that Sentinel is compared with."""
