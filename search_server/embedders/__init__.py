"""The gateway's view of the embedder workers."""
