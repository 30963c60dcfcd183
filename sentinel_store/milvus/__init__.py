"""Rows in Milvus."""
