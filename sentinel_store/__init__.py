"""Collections, items and images, and their stores; shared by the gateway and the bulk indexer."""
