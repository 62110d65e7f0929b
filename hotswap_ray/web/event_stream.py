"""A streamed answer on its way to the client, with comments while nothing comes.

Proxies and clients give up on a connection that says nothing. A comment of server-sent events
is a line that every reader drops, so it may be sent before the model is known, and between two
frames: each frame is whole events.
"""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Any

from hotswap_ray.core.errors import HotswapError
from hotswap_ray.web.asgi import Headers, Send, error_body, start

# A tuple: Serve's own middleware appends to the list of headers that it is given.
SSE = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
)
COMMENT = b": waiting\n\n"


class EventStream:
    """The answer to one request; used as ``async with``, from one task.

    The time is looked at by one timer for the whole stream, so a frame costs no task.

    Args:
        send: ASGI's.
        comment_s: Silence after which a comment is sent, again and again; ``None`` for never.

    Attributes:
        begun: The status was sent: what goes wrong from now on is an event.
    """

    def __init__(self, send: Send, comment_s: float | None) -> None:
        self.begun = False
        self._send = send
        self._comment_s = comment_s
        self._loop = asyncio.get_running_loop()
        self._sent_at = self._loop.time()
        self._sending = False
        self._timer: asyncio.TimerHandle | None = None
        self._comment: asyncio.Task[None] | None = None
        self._owner = asyncio.current_task()

    async def __aenter__(self) -> EventStream:
        if self._comment_s is not None:
            self._timer = self._loop.call_later(self._comment_s, self._look)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._comment is None:
            return
        owner, self._owner = self._owner, None
        self._comment.cancel()
        (failed,) = await asyncio.gather(self._comment, return_exceptions=True)
        if not isinstance(error, asyncio.CancelledError) or not isinstance(failed, Exception):
            return
        if owner is not None and not owner.uncancel():  # nobody else has cancelled it
            raise failed from None

    async def begin(self, headers: Headers) -> None:
        """Send the status and the headers, unless a comment had to be sent before."""
        await self._settled()
        if not self.begun:
            self.begun = True
            await self._put(start(200, [*SSE, *headers]))

    async def frame(self, data: Any) -> None:
        """Send whole events."""
        await self._settled()
        await self._put(_part(data))

    async def end(self, error: HotswapError | None = None) -> None:
        """Send the last of it: an error event instead of ``[DONE]``, if the answer is cut off."""
        await self._settled()
        if error is not None:
            await self._put(_part(b"data: " + error_body(error) + b"\n\n"))
        await self._put({"type": "http.response.body", "body": b"", "more_body": False})

    async def _settled(self) -> None:
        """A comment that is being sent goes first."""
        if self._comment is not None and not self._comment.done():
            await self._comment

    async def _put(self, message: dict[str, Any]) -> None:
        self._sending = True
        try:
            await self._send(message)
        finally:
            self._sending = False
            self._sent_at = self._loop.time()

    def _look(self) -> None:
        """Whether it was silent for too long; a client that does not read is not waiting."""
        assert self._comment_s is not None
        silent_s = self._loop.time() - self._sent_at
        rest_s = self._comment_s - silent_s
        busy = self._sending or (self._comment is not None and not self._comment.done())
        if not busy and rest_s <= 0:
            self._comment = self._loop.create_task(self._say_waiting())
            self._comment.add_done_callback(self._said)
        self._timer = self._loop.call_later(rest_s if rest_s > 0 else self._comment_s, self._look)

    async def _say_waiting(self) -> None:
        if not self.begun:
            self.begun = True
            await self._put(start(200, [*SSE]))
        await self._put(_part(COMMENT))

    def _said(self, comment: asyncio.Task[None]) -> None:
        """A client that is gone is told to nobody but the task that works for it."""
        if not comment.cancelled() and comment.exception() and self._owner is not None:
            self._owner.cancel()


def _part(body: Any) -> dict[str, Any]:
    return {"type": "http.response.body", "body": body, "more_body": True}
