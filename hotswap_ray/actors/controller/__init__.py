"""The process that owns models, swaps and the route table."""
