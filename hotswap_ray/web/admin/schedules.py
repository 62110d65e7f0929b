"""Schedules under ``/admin/schedules``; a part of the control plane."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from hotswap_ray.core.errors import InvalidRequest
from hotswap_ray.web.admin.parts import NAME, query_of, quick
from hotswap_ray.web.openai_api import Scope


class ScheduleApi:
    """Handlers of ``AdminApi``; each answers with what the controller says."""

    _controller: Any

    def _schedule_routes(self) -> list[tuple[str, str, Callable[..., Awaitable[Any]]]]:
        return [
            ("GET", "schedules", self._schedules),
            ("GET", "schedules/dry-run", self._dry_run),
            ("GET", f"schedules/{NAME}/dry-run", self._dry_run),
            ("POST", f"schedules/{NAME}/dry-run", self._dry_run_of),
            ("PUT", f"schedules/{NAME}", self._set_schedule),
            ("POST", f"schedules/{NAME}", self._set_schedule),
            ("DELETE", f"schedules/{NAME}", self._delete_schedule),
        ]

    async def _schedules(self, scope: Scope, body: Any) -> Any:
        return {"schedules": await quick(self._controller.schedules())}

    async def _set_schedule(self, scope: Scope, body: Any, schedule: str) -> Any:
        return await quick(self._controller.set_schedule(schedule, body))

    async def _delete_schedule(self, scope: Scope, body: Any, schedule: str) -> Any:
        return await quick(self._controller.delete_schedule(schedule))

    async def _dry_run(self, scope: Scope, body: Any, schedule: str | None = None) -> Any:
        return {"runs": await quick(self._controller.schedule_dry_run(schedule, _hours(scope)))}

    async def _dry_run_of(self, scope: Scope, body: Any, schedule: str) -> Any:
        """As ``_dry_run``, of a spec that is not set."""
        runs = self._controller.schedule_dry_run(schedule, _hours(scope), body)
        return {"runs": await quick(runs)}


def _hours(scope: Scope) -> float:
    try:
        return float(query_of(scope).get("hours", "24"))
    except ValueError:
        raise InvalidRequest("hours must be a number") from None
