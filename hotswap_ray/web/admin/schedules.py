"""Schedules under ``/admin/schedules``."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.routing import Route

from hotswap_ray.core.errors import InvalidRequest
from hotswap_ray.web.admin.http import Answer, body_of, quick


class ScheduleRoutes:
    """Setting and trying schedules.

    Args:
        controller: ``SwapController`` or a proxy of it.
    """

    def __init__(self, controller: Any) -> None:
        self._controller = controller

    def routes(self) -> list[Route]:
        """The paths of this part, and what serves each."""
        return [
            Route("/schedules", self._schedules),
            Route("/schedules/dry-run", self._dry_run),
            Route("/schedules/{schedule}/dry-run", self._dry_run),
            Route("/schedules/{schedule}/dry-run", self._dry_run_of, methods=["POST"]),
            Route("/schedules/{schedule}", self._set, methods=["PUT"]),
            Route("/schedules/{schedule}", self._set, methods=["POST"]),
            Route("/schedules/{schedule}", self._delete, methods=["DELETE"]),
        ]

    async def _schedules(self, request: Request) -> Answer:
        return Answer({"schedules": await quick(self._controller.schedules())})

    async def _set(self, request: Request) -> Answer:
        schedule = request.path_params["schedule"]
        return Answer(await quick(self._controller.set_schedule(schedule, body_of(request))))

    async def _delete(self, request: Request) -> Answer:
        return Answer(
            await quick(self._controller.delete_schedule(request.path_params["schedule"]))
        )

    async def _dry_run(self, request: Request) -> Answer:
        schedule = request.path_params.get("schedule")
        runs = self._controller.schedule_dry_run(schedule, _hours(request))
        return Answer({"runs": await quick(runs)})

    async def _dry_run_of(self, request: Request) -> Answer:
        """As ``_dry_run``, of a spec that is not set."""
        schedule, spec = request.path_params["schedule"], body_of(request)
        runs = self._controller.schedule_dry_run(schedule, _hours(request), spec)
        return Answer({"runs": await quick(runs)})


def _hours(request: Request) -> float:
    """How far to look ahead; the controller knows the limits."""
    try:
        return float(request.query_params.get("hours") or 24)
    except ValueError:
        raise InvalidRequest("hours must be a number") from None
