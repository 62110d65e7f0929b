"""Numbers in, what is proven out: betting test, interval, drift."""
