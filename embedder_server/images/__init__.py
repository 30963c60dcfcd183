"""Decode images and prepare them for a model."""
