"""The system and its tasks under ``/admin/status`` and ``/admin/tasks``."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.routing import Route

from hotswap_ray.core.errors import NotFound
from hotswap_ray.core.routing.table import unknown
from hotswap_ray.web.admin.http import Answer, quick


class Tasks:
    """What is served by which model.

    Args:
        controller: ``SwapController`` or a proxy of it.
    """

    def __init__(self, controller: Any) -> None:
        self._controller = controller

    def routes(self) -> list[Route]:
        """The paths of this part, and what serves each."""
        return [
            Route("/status", self._status),
            Route("/tasks/{task}", self._task),
            Route("/tasks/{task}/generations", self._generations),
        ]

    async def _status(self, request: Request) -> Answer:
        return Answer(await quick(self._controller.status()))

    async def _task(self, request: Request) -> Answer:
        task = request.path_params["task"]
        status = await quick(self._controller.status())
        if task not in status["tasks"]:
            raise NotFound(unknown("task", task, status["tasks"]))
        of_task = {
            name: [row for row in status[name] if row["task"] == task]
            for name in ("open_swaps", "open_ab_tests")
        }
        return Answer({"task": task, **status["tasks"][task], **of_task})

    async def _generations(self, request: Request) -> Answer:
        task = request.path_params["task"]
        rows = await quick(self._controller.generations(task))
        return Answer({"task": task, "generations": rows})
