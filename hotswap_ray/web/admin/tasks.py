"""The system and its tasks under ``/admin/status`` and ``/admin/tasks``; how a task swaps."""

from __future__ import annotations

from functools import partial
from typing import Any, Literal

from pydantic import Field
from starlette.requests import Request
from starlette.routing import Route

from hotswap_ray.core.errors import NotFound
from hotswap_ray.core.names import Name, Strict
from hotswap_ray.core.routing.table import unknown
from hotswap_ray.web.admin.http import LONGEST_WAIT_S, Answer, condition, parsed, quick, waited

SwapId = Name


class WaitedRequest(Strict):
    """What begins a swap, or takes one back, may say."""

    swap_id: SwapId | None = Field(None, description="Asking again with it changes nothing.")
    wait_s: float = Field(
        0, ge=0, le=LONGEST_WAIT_S, description="Longest wait until it serves or has ended."
    )


class RollbackRequest(WaitedRequest):
    """Body of ``POST tasks/{task}/rollback``."""

    to: str | None = Field(None, max_length=63, description="One of its generations.")


class SwapRequest(WaitedRequest):
    """Body of ``POST tasks/{task}/swap``."""

    model: Name = Field(description="Model that shall serve the task.")
    bake_s: float | None = Field(None, ge=0, le=604_800, description="Overrides swap.bake_s.")
    strategy: Literal["auto", "overlap", "sleep", "drain_first"] | None = Field(
        None, description="Overrides swap.strategy."
    )
    compatibility: Literal["strict", "warn"] | None = Field(
        None, description="Overrides swap.compatibility."
    )
    canary: str | None = Field(
        None, max_length=200, description="Percentages, for example 5,25; overrides the steps."
    )
    until: Literal["switched", "end"] = Field(
        "switched", description="What wait_s waits for: the model serves, or the swap ended."
    )
    dry_run: bool = Field(False, description="Say what would happen, and change nothing.")


class TaskRoutes:
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
            Route("/tasks/{task}/swap", self._swap, methods=["POST"]),
            Route("/tasks/{task}/rollback", self._rollback, methods=["POST"]),
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

    async def _swap(self, request: Request) -> Answer:
        body = parsed(SwapRequest, request)
        options = body.model_dump(include={"bake_s", "strategy", "compatibility", "canary"})
        options |= {"requested_by": "admin", **condition(request)}
        task = request.path_params["task"]
        ask = partial(self._controller.swap, task, body.model, body.swap_id, **options)
        if body.dry_run:
            return Answer(await quick(ask(dry_run=True)))
        return await waited(self._controller, await quick(ask()), body.wait_s, body.until)

    async def _rollback(self, request: Request) -> Answer:
        body = parsed(RollbackRequest, request)
        options = condition(request) | ({} if body.to is None else {"to": body.to})
        task = request.path_params["task"]
        record = await quick(self._controller.rollback(task, body.swap_id, **options))
        return await waited(self._controller, record, body.wait_s, "switched" if body.to else "end")
