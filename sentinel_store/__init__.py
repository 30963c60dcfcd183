"""Collections, items and images, and how they are stored.

Shared by the gateway and the bulk indexer.
"""
