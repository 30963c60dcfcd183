"""The gateway against model and Milvus called directly."""
