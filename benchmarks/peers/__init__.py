"""Other systems to compare with."""
