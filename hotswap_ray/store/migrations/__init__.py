"""Versions of the store's schema."""
