"""Present the stored images of hits and items."""
