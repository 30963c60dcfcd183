"""The embedder worker against its limit, the original system and a peer."""
