"""Durable state: swaps, route table, outcomes and learnings, in SQLite or PostgreSQL."""

from hotswap_ray.store.store import Store

__all__ = ["Store"]
