"""What was learned of a task, and what auto-swap decides by it."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.routing import Route

from hotswap_ray.core.errors import InvalidRequest
from hotswap_ray.web.admin.http import Answer, body_of, quick, rows_asked


class LearningRoutes:
    """Evidence and decisions, and the switch of auto-swap.

    Args:
        controller: ``SwapController`` or a proxy of it.
        learning: ``LearningActor`` or a proxy of it.
    """

    def __init__(self, controller: Any, learning: Any) -> None:
        self._controller = controller
        self._learning = learning

    def routes(self) -> list[Route]:
        """The paths of this part, and what serves each."""
        return [
            Route("/tasks/{task}/learnings", self._learnings),
            Route("/tasks/{task}/autoswap", self._autoswap, methods=["POST"]),
            Route("/decisions", self._decisions),
            Route("/explain/{subject}", self._explain),
        ]

    async def _learnings(self, request: Request) -> Answer:
        return Answer(await quick(self._learning.task_performance(request.path_params["task"])))

    async def _autoswap(self, request: Request) -> Answer:
        body = body_of(request)
        mode = body.pop("mode", None)
        if body or not isinstance(mode, str):
            raise InvalidRequest('the body is {"mode": "off"}; or advise, on, config')
        return Answer(await quick(self._controller.set_autoswap(request.path_params["task"], mode)))

    async def _decisions(self, request: Request) -> Answer:
        rows = await quick(self._controller.decisions(*rows_asked(request)))
        return Answer({"decisions": rows})

    async def _explain(self, request: Request) -> Answer:
        return Answer(await quick(self._controller.explain(request.path_params["subject"])))
