"""Write, read and delete items."""
