"""Schema of the store, step by step; ``store.database`` applies them when it opens."""
