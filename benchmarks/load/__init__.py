"""Load generators and the contents they send."""
