"""Swaps under ``/admin/swaps``: how far each is, and what an operator does about it."""

from __future__ import annotations

from functools import partial
from typing import Any

from pydantic import Field
from starlette.requests import Request
from starlette.routing import Route

from hotswap_ray.core.names import Strict
from hotswap_ray.web.admin.http import (
    LONGEST_WAIT_S,
    Answer,
    condition,
    parsed,
    quick,
    rows_asked,
    waited,
)


class RetryRequest(Strict):
    """Body of ``POST swaps/{id}/retry``."""

    attempt: int | None = Field(
        None, ge=1, le=9999, description="Which retry; asking again with it changes nothing."
    )
    wait_s: float = Field(0, ge=0, le=LONGEST_WAIT_S, description="Longest wait until it serves.")


class SwapRoutes:
    """Watching and changing swaps.

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

    async def _signal(self, event: str, request: Request) -> Answer:
        swap_id = request.path_params["swap_id"]
        return Answer(await quick(self._controller.signal(swap_id, event, **condition(request))))

    async def _retry(self, request: Request) -> Answer:
        body = parsed(RetryRequest, request)
        swap_id = request.path_params["swap_id"]
        record = await quick(self._controller.retry(swap_id, body.attempt))
        return await waited(self._controller, record, body.wait_s, "switched")
