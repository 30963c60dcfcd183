"""Models from the Hugging Face hub or a folder."""
