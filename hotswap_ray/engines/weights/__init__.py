"""Weights from packages and files."""
