"""Search Milvus: vectors, words, filters, aliases."""
