"""Ray metrics of swaps, made where a phase is saved."""

from __future__ import annotations

from ray.util.metrics import Counter, Histogram

from hotswap_ray.core.swap.phases import Swap

SECONDS = [0.01, 0.05, 0.1, 0.5, 1, 5, 10, 30, 60, 120, 300, 600, 3600]


class SwapMetrics:
    """``hotswap_swaps`` and ``hotswap_swap_phase_seconds``.

    Labels are task, result and phase: bounded by the configuration and the table. The
    metrics are made at the first swap, in the process of the actor.
    """

    def __init__(self) -> None:
        self._metrics: tuple[Counter, Histogram] | None = None

    def __call__(self, swap: Swap) -> None:
        """Count a swap that has ended, and the time of each phase it went through."""
        if self._metrics is None:
            self._metrics = (
                Counter("hotswap_swaps", "Swaps by how they ended.", ("task", "result")),
                Histogram("hotswap_swap_phase_seconds", "Time per phase.", SECONDS, ("phase",)),
            )
        swaps, phases = self._metrics
        swaps.inc(1, {"task": swap.task, "result": str(swap.phase)})
        for phase, seconds in swap.seconds.items():
            phases.observe(seconds, {"phase": str(phase)})
