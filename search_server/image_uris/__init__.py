"""Fetch images that requests name by URI."""
