"""``GET /admin/events``: what happens, as server-sent events."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.routing import Route

from hotswap_ray.core.errors import HotswapError
from hotswap_ray.core.swap.events import is_wanted
from hotswap_ray.web.admin.http import number, quick
from hotswap_ray.web.asgi import Receive, Scope, Send

POLL_S = 0.3
HEARTBEAT_S = 15.0


class EventStream(StreamingResponse):
    """An answer that ends when its frames do.

    Starlette's own call also waits for the client to leave, and then breaks off in the middle
    of a call to the controller. The generator of the frames checks itself whether the client left.
    """

    media_type = "text/event-stream"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send every frame."""
        await self.stream_response(send)


class EventRoutes:
    """The stream of events.

    Args:
        controller: ``SwapController`` or a proxy of it.
    """

    def __init__(self, controller: Any) -> None:
        self._controller = controller

    def routes(self) -> list[Route]:
        """The path of the stream."""
        return [Route("/events", self._events)]

    async def _events(self, request: Request) -> EventStream:
        """Events from ``Last-Event-ID`` on, until the client leaves.

        The query may narrow them: ``kinds``, several with commas, and ``swap_id``.
        """
        query = request.query_params
        last = request.headers.get("last-event-id") or query.get("after_id")
        after_id = number("after_id", last, 0, most=2**62)
        kinds = [kind for kind in query.get("kinds", "").split(",") if kind]
        frames = self._frames(request, after_id, kinds, query.get("swap_id") or None)
        return EventStream(frames, headers={"cache-control": "no-cache"})

    async def _frames(
        self, request: Request, after_id: int, kinds: list[str], swap_id: str | None
    ) -> AsyncIterator[bytes]:
        sent_s = float("-inf")  # a first byte at once, so that the client sees it is connected
        while not await request.is_disconnected():
            parts, pause_s = [], POLL_S
            try:
                for event in await quick(self._controller.events(after_id)):
                    after_id, pause_s = event["id"], 0.0  # there may be another page
                    if is_wanted(event, kinds, swap_id):
                        parts.append(_frame(event))
            except (HotswapError, TimeoutError):
                # The controller is being restarted; heartbeats keep the connection meanwhile.
                await asyncio.sleep(1)
            if not parts and time.monotonic() - sent_s >= HEARTBEAT_S:
                parts.append(b": still here\n\n")
            if parts:
                sent_s = time.monotonic()
                yield b"".join(parts)
            await asyncio.sleep(pause_s)


def _frame(event: dict[str, Any]) -> bytes:
    data = {"at_s": event["at_s"], **event["doc"]}
    return b"id: %d\nevent: %s\ndata: %s\n\n" % (
        event["id"],
        event["kind"].encode(),
        orjson.dumps(data),
    )
