"""Benchmarks of the embedder worker."""
