"""Decode pictures and prepare them for a model."""
