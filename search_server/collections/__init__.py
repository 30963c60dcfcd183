"""Create, name, delete and reindex collections."""
