"""The embedder worker: one process and one device embed text and images in one vector space."""
