"""Python client of Sentinel."""
