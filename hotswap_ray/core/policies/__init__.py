"""Policies that choose a model for a request: one idea a file."""
