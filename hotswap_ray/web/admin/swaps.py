"""Swaps under ``/admin/swaps``, and how a task asks for one or takes one back."""

from __future__ import annotations

from functools import partial
from typing import Any, Literal

from pydantic import Field
from starlette.requests import Request
from starlette.routing import Route

from hotswap_ray.core.names import Name, Strict
from hotswap_ray.web.admin.http import LONGEST_WAIT_S, Answer, parsed, quick, rows_asked

SwapId = Name


class RollbackRequest(Strict):
    """What begins a swap, or takes one back, may say."""

    swap_id: SwapId | None = Field(None, description="Asking again with it changes nothing.")
    wait_s: float = Field(
        0, ge=0, le=LONGEST_WAIT_S, description="Longest wait until it serves or has ended."
    )


class BackRequest(RollbackRequest):
    """Body of ``POST tasks/{task}/rollback``."""

    to: str | None = Field(None, max_length=63, description="One of its generations.")


class SwapRequest(RollbackRequest):
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


class RetryRequest(Strict):
    """Body of ``POST swaps/{id}/retry``."""

    attempt: int | None = Field(
        None, ge=1, le=9999, description="Which retry; asking again with it changes nothing."
    )
    wait_s: float = Field(0, ge=0, le=LONGEST_WAIT_S, description="Longest wait until it serves.")


class Swaps:
    """Beginning, watching and changing swaps.

    Args:
        controller: ``SwapController`` or a proxy of it.
    """

    def __init__(self, controller: Any) -> None:
        self._controller = controller

    def routes(self) -> list[Route]:
        """The paths of this part, and what serves each."""
        return [
            Route("/swaps", self._swaps),
            Route("/swaps/{swap_id}", self._record),
            Route("/tasks/{task}/swap", self._swap, methods=["POST"]),
            Route("/tasks/{task}/rollback", self._rollback, methods=["POST"]),
            *(
                Route(f"/swaps/{{swap_id}}/{event}", partial(self._signal, event), methods=["POST"])
                for event in ("promote", "abort", "rollback", "pause", "resume")
            ),
            Route("/swaps/{swap_id}/retry", self._retry, methods=["POST"]),
        ]

    async def _swaps(self, request: Request) -> Answer:
        return Answer({"swaps": await quick(self._controller.swaps(*rows_asked(request)))})

    async def _record(self, request: Request) -> Answer:
        swap_id = request.path_params["swap_id"]
        record = await quick(self._controller.wait(swap_id, 0))
        return Answer({**record, "journal": await quick(self._controller.journal(swap_id))})

    async def _swap(self, request: Request) -> Answer:
        body = parsed(SwapRequest, request)
        options = body.model_dump(include={"bake_s", "strategy", "compatibility", "canary"})
        options |= {"requested_by": "admin", **_condition(request)}
        task = request.path_params["task"]
        ask = partial(self._controller.swap, task, body.model, body.swap_id, **options)
        if body.dry_run:
            return Answer(await quick(ask(dry_run=True)))
        return await self._waited(await quick(ask()), body.wait_s, body.until)

    async def _rollback(self, request: Request) -> Answer:
        body = parsed(BackRequest, request)
        options = _condition(request) | ({} if body.to is None else {"to": body.to})
        task = request.path_params["task"]
        record = await quick(self._controller.rollback(task, body.swap_id, **options))
        return await self._waited(record, body.wait_s, "switched" if body.to else "end")

    async def _signal(self, event: str, request: Request) -> Answer:
        swap_id = request.path_params["swap_id"]
        return Answer(await quick(self._controller.signal(swap_id, event, **_condition(request))))

    async def _retry(self, request: Request) -> Answer:
        body = parsed(RetryRequest, request)
        swap_id = request.path_params["swap_id"]
        record = await quick(self._controller.retry(swap_id, body.attempt))
        return await self._waited(record, body.wait_s, "switched")

    async def _waited(self, record: Any, wait_s: float, until: str) -> Answer:
        if wait_s:
            record = await self._controller.wait(record["swap_id"], wait_s, until)
        return Answer(record)


def _condition(request: Request) -> dict[str, str]:
    """The etag that the client saw, if it stated one."""
    if_match = request.headers.get("if-match")
    return {} if if_match is None else {"if_match": if_match}
