"""Image bytes and thumbnails in an object store."""
