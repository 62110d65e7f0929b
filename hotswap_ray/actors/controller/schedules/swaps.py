"""How schedules reach the controller's swaps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from hotswap_ray.actors.controller.models.publisher import Publisher
from hotswap_ray.actors.controller.swaps.requests import SwapRequests
from hotswap_ray.actors.controller.swaps.runner import SwapRunner
from hotswap_ray.core.errors import NotFound
from hotswap_ray.core.spec.schedule import ScheduledSwap

SCHEDULE = "schedule"
"""Who asked for a swap that a schedule began."""


class Measures(Protocol):
    """What schedules ask of the learnings."""

    async def rates(self) -> Mapping[str, float]:
        """Answers a second by task. See ``LearningQueries.rates``."""
        ...


class ScheduledSwaps:
    """The controller's swaps, as a ``Scheduler`` asks for them.

    Args:
        publisher: Route table.
        runner: Open swaps.
        requests: How swaps are begun.
        learning: Measures the traffic.
    """

    def __init__(
        self,
        publisher: Publisher,
        runner: SwapRunner,
        requests: SwapRequests,
        learning: Measures,
    ) -> None:
        self._publisher = publisher
        self._runner = runner
        self._requests = requests
        self._learning = learning

    async def begin(self, swap: ScheduledSwap, swap_id: str) -> None:
        """Begin a swap for a schedule. See ``SwapRequests.swap``."""
        await self._requests.swap(
            swap.task,
            swap.model,
            swap_id,
            bake_s=swap.bake_s,
            strategy=swap.strategy,
            canary=swap.canary,
            requested_by=SCHEDULE,
        )

    async def phase(self, swap_id: str) -> str | None:
        """Phase of a swap, ``None`` when there is none."""
        try:
            return (await self._runner.find(swap_id)).phase
        except NotFound:
            return None

    def model_of(self, task: str) -> str | None:
        """Model that serves a task."""
        route = self._publisher.table.routes.get(task)
        return None if route is None else route.model

    async def rates(self) -> Mapping[str, float]:
        """Requests a second by task."""
        return await self._learning.rates()

    def open_tasks(self) -> list[str]:
        """Tasks with an open swap."""
        return [swap.task for swap in self._runner.open()]
