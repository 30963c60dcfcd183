"""The search gateway: embeds queries through the workers, searches Milvus, keeps the images."""
