"""The embedder workers, from the gateway's side."""
