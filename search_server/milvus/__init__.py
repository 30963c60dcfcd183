"""Search in Milvus: vectors, words, filters, aliases."""
