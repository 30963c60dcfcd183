"""Faults by chance, while clients write and read: nothing acknowledged may be lost or wrong."""
