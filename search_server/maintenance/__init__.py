"""Clean up what nobody uses any more."""
