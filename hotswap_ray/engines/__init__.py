"""Engines: one file each, one protocol (``base.Engine``), found by name or entry point."""

from hotswap_ray.engines.base import Engine, load_engine_class

__all__ = ["Engine", "load_engine_class"]
