"""Benchmarks of the gateway and the page."""
