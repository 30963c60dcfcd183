"""The embedder worker: one process, one device, one shared vector space for text and images."""
