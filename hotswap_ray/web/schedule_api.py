"""Schedules under ``/admin/schedules``; a part of the control plane."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import parse_qs

from hotswap_ray.core.errors import InvalidRequest
from hotswap_ray.web.openai_api import Scope

QUICK_S = 30.0
NAME = "([^/]+)"


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
        return {"schedules": await _quick(self._controller.schedules())}

    async def _set_schedule(self, scope: Scope, body: Any, schedule: str) -> Any:
        return await _quick(self._controller.set_schedule(schedule, body))

    async def _delete_schedule(self, scope: Scope, body: Any, schedule: str) -> Any:
        return await _quick(self._controller.delete_schedule(schedule))

    async def _dry_run(self, scope: Scope, body: Any, schedule: str | None = None) -> Any:
        return {"runs": await _quick(self._controller.schedule_dry_run(schedule, _hours(scope)))}

    async def _dry_run_of(self, scope: Scope, body: Any, schedule: str) -> Any:
        """As ``_dry_run``, of a spec that is not set."""
        runs = self._controller.schedule_dry_run(schedule, _hours(scope), body)
        return {"runs": await _quick(runs)}


def _hours(scope: Scope) -> float:
    query = parse_qs(scope.get("query_string", b"").decode("latin-1"))
    try:
        return float(query.get("hours", ["24"])[-1])
    except ValueError:
        raise InvalidRequest("hours must be a number") from None


async def _quick(call: Awaitable[Any]) -> Any:
    async with asyncio.timeout(QUICK_S):
        return await call
