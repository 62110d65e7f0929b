"""Weights from packages and files."""

GEMMA = "gemma3-270m"
"""The one name of weights that is known; ``weights.gemma`` says what may follow it."""
