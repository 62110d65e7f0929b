"""Swaps that begin by the clock."""
