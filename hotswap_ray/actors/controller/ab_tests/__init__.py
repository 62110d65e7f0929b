"""A/B tests from their start to their conclusion."""
