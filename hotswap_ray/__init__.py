"""hotswap_ray: an arbiter that swaps language models on Ray without losing a request."""

__version__ = "0.1.0"
