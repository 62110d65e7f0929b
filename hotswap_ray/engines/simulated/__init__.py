"""A stand-in for an engine: seeded delays, answers and failures. It is never a model."""

from hotswap_ray.engines.simulated.engine import SimulatedEngine
from hotswap_ray.engines.simulated.options import SimulatedOptions
from hotswap_ray.engines.simulated.plan import WRONG

__all__ = ["WRONG", "SimulatedEngine", "SimulatedOptions"]
