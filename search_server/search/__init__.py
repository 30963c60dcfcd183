"""Turn queries into ranked hits."""
