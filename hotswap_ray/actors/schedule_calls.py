"""What the controller answers about schedules, and how they reach its swaps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from pydantic import ValidationError

from hotswap_ray.actors.model_pool import ModelPool
from hotswap_ray.actors.publisher import Publisher
from hotswap_ray.actors.scheduler import Scheduler
from hotswap_ray.actors.starts import Starts
from hotswap_ray.actors.swap_requests import SwapRequests
from hotswap_ray.actors.swap_runner import SwapRunner
from hotswap_ray.config_checks import problems
from hotswap_ray.core.errors import InvalidRequest, NotFound
from hotswap_ray.core.schedule import INF, next_run
from hotswap_ray.core.schedule_spec import ScheduledSwap, ScheduleSpec

SCHEDULE = "schedule"
"""Who asked for a swap that a schedule began."""
LONGEST_HOURS = 24 * 366


class Measures(Protocol):
    """What schedules ask of the learnings."""

    async def rates(self) -> Mapping[str, float]:
        """See ``LearningQueries.rates``."""
        ...


class ScheduledSwaps:
    """The controller's swaps, as a ``Scheduler`` asks for them.

    Args:
        publisher: Route table.
        runner: Open swaps.
        requests: How swaps are begun.
        learning: Who measures the traffic.
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
        """See ``SwapRequests.swap``."""
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


class ScheduleCalls(Starts):
    """Methods of ``SwapController`` about schedules."""

    _clock: Any
    _pool: ModelPool
    _publisher: Publisher
    _scheduler: Scheduler

    async def schedules(self) -> list[dict[str, Any]]:
        """Every schedule: when it is due next, what it waits for, what came of it."""
        await self.start()
        return self._scheduler.rows()

    async def set_schedule(self, schedule: str, spec: Mapping[str, Any]) -> dict[str, Any]:
        """Add or replace a schedule; it outlasts restarts and the configuration.

        Args:
            schedule: Schedule id.
            spec: As under ``schedules:`` in the YAML file.

        Raises:
            NotFound: A task or model that does not exist.
            InvalidRequest: Each field that is wrong, and why; or it would never run.
        """
        await self.start()
        parsed = self._parsed(schedule, spec)
        if parsed.enabled and next_run(parsed, self._clock()) == INF:
            raise InvalidRequest(f"schedule {schedule!r} would never run; its time is over")
        return await self._scheduler.set(parsed)

    async def delete_schedule(self, schedule: str) -> dict[str, Any]:
        """Forget a schedule, one of the file too; swaps that it began go on.

        Raises:
            NotFound: There is none of that id.
        """
        await self.start()
        return await self._scheduler.delete(schedule)

    async def schedule_dry_run(
        self,
        schedule: str | None = None,
        hours: float = 24,
        spec: Mapping[str, Any] | None = None,
    ) -> list[dict[str, Any]]:
        """What would happen when; see ``core.schedule.plan``. Changes nothing.

        Args:
            schedule: Schedule id; all of them when ``None``.
            hours: How far to look ahead, up to a year.
            spec: One that is not set.

        Raises:
            NotFound: No such schedule, task or model.
            InvalidRequest: ``hours`` or the spec is wrong.
        """
        await self.start()
        if not 0 < hours <= LONGEST_HOURS:
            raise InvalidRequest(f"hours must be above 0 and at most {LONGEST_HOURS}")
        if spec is not None:
            return self._scheduler.dry_run(self._parsed(schedule or "dry-run", spec), hours)
        one = None if schedule is None else self._scheduler.find(schedule)
        return self._scheduler.dry_run(one, hours)

    def _parsed(self, schedule: str, spec: Mapping[str, Any]) -> ScheduleSpec:
        if spec.get("id", schedule) != schedule:
            raise InvalidRequest(f"the spec is of schedule {spec['id']!r}, not {schedule!r}")
        try:
            parsed = ScheduleSpec.model_validate({**spec, "id": schedule})
        except ValidationError as error:
            said = problems(error, ScheduleSpec)
            raise InvalidRequest(f"schedule {schedule!r}: {said}") from None
        for swap in parsed.swaps:
            self._publisher.route(swap.task)
            self._pool.spec(swap.model)
        return parsed
