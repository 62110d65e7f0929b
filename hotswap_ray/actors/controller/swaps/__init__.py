"""A swap from its request to its end."""
