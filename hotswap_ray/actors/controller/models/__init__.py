"""Which models are loaded, and which route leads where."""
