"""What the controller answers about schedules, and how they reach its swaps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from hotswap_ray.actors.controller.calls.starts import Starts
from hotswap_ray.actors.controller.models.pool import ModelPool
from hotswap_ray.actors.controller.models.publisher import Publisher
from hotswap_ray.actors.controller.schedules.scheduler import Scheduler
from hotswap_ray.config.checks import problems
from hotswap_ray.core.errors import InvalidRequest
from hotswap_ray.core.schedule.due import INF, next_run
from hotswap_ray.core.spec.schedule import ScheduleSpec

LONGEST_HOURS = 24 * 366


class ScheduleCalls(Starts):
    """Methods of ``SwapController`` about schedules."""

    _clock: Any
    _pool: ModelPool
    _publisher: Publisher
    _scheduler: Scheduler

    async def schedules(self) -> list[dict[str, Any]]:
        """Every schedule: when it is due next, what it waits for, and its results."""
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
        """What would happen when; see ``core.schedule.due.plan``. Changes nothing.

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
        configured = None if schedule is None else self._scheduler.find(schedule)
        return self._scheduler.dry_run(configured, hours)

    def _parsed(self, schedule: str, spec: Mapping[str, Any]) -> ScheduleSpec:
        if spec.get("id", schedule) != schedule:
            raise InvalidRequest(f"the spec is of schedule {spec['id']!r}, not {schedule!r}")
        try:
            parsed = ScheduleSpec.model_validate({**spec, "id": schedule})
        except ValidationError as error:
            message = problems(error, ScheduleSpec)
            raise InvalidRequest(f"schedule {schedule!r}: {message}") from None
        for swap in parsed.swaps:
            self._publisher.route(swap.task)
            self._pool.spec(swap.model)
        return parsed
