r"""A scriptable upstream: an OpenAI-compatible server of which a test says every byte.

It answers well until a script is given. A script is an async function of what came and a pen
that writes the answer: whole, as events, byte by byte, with pauses, or not at all.

From a synchronous test it runs in a thread of its own::

    async def cut_off(request, reply):
        await reply.start()
        await reply.event(chat_chunk("half"))
        reply.drop()

    with Upstream(models=["far"]) as upstream:
        upstream.script = cut_off
        ...  # a model with `engine: openai` and `base_url: upstream.url`

Inside an event loop it runs in that loop: ``async with Upstream() as upstream``. A script that
raises is a mistake of the test, and is raised when the upstream ends.

Example:
    >>> import httpx
    >>> async def busy(request, reply):
    ...     await reply.json({"error": {"message": "later"}}, 429, {"retry-after": "7"})
    >>> with Upstream(script=in_turn(busy, well)) as upstream:
    ...     body = {"model": "far", "messages": [{"role": "user", "content": "hi"}]}
    ...     first, second = (
    ...         httpx.post(f"{upstream.url}/chat/completions", json=body, trust_env=False)
    ...         for _ in range(2)
    ...     )
    >>> first.status_code, first.headers["retry-after"]
    (429, '7')
    >>> second.json()["choices"][0]["message"]["content"], len(upstream.posts)
    ('far answer', 2)
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from hotswap_ray.testing.replies import Reply, chat_chunk, text_chunk, usage, whole_answer

__all__ = [
    "Gate",
    "Received",
    "Reply",
    "Script",
    "Upstream",
    "chat_chunk",
    "in_turn",
    "text_chunk",
    "usage",
    "well",
    "whole_answer",
]

BACKLOG_S = 10  # how long starting and ending may take


@dataclass(frozen=True)
class Received:
    """One request that the upstream got.

    Attributes:
        method: For example ``POST``.
        path: With its query, for example ``/v1/chat/completions``.
        headers: By lower-case name; the values of one name are joined by commas.
        raw: The body's bytes.
        connection: Number of the connection it came on, 1 and up.
        number: Which request of its connection it is, 1 and up: above 1, it was kept alive.
    """

    method: str
    path: str
    headers: Mapping[str, str]
    raw: bytes
    connection: int
    number: int

    @property
    def body(self) -> dict[str, Any]:
        """The body as JSON; empty if there is none."""
        return dict(json.loads(self.raw)) if self.raw else {}

    @property
    def is_chat(self) -> bool:
        """Whether it asks for chat completions."""
        return self.path.partition("?")[0].endswith("/chat/completions")


Script = Callable[[Received, Reply], Awaitable[None]]


async def well(request: Received, reply: Reply) -> None:
    """Answer as a well-behaved server does: ``far answer``, two tokens, whole or streamed."""
    if not request.body.get("stream"):
        await reply.json(whole_answer("far answer", chat=request.is_chat))
        return
    chunk = chat_chunk if request.is_chat else text_chunk
    await reply.start()
    await reply.event(chunk("far"))
    await reply.event(chunk(" answer", "stop"))
    await reply.event({**chunk(), "choices": [], "usage": usage(5, 2)})
    await reply.done()


def in_turn(*scripts: Script) -> Script:
    """A script for the first request, the second and so on; the last for all others."""
    waiting = list(scripts)

    async def script(request: Received, reply: Reply) -> None:
        await (waiting.pop(0) if len(waiting) > 1 else waiting[0])(request, reply)

    return script


class Gate:
    """What a script waits at until the test opens it, from whichever thread."""

    def __init__(self) -> None:
        self._open = threading.Event()
        self._waiting: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []

    def open(self) -> None:
        """Let all pass, now and later."""
        self._open.set()
        for loop, event in list(self._waiting):
            loop.call_soon_threadsafe(event.set)

    async def wait(self) -> None:
        """Return once the gate is open."""
        event = asyncio.Event()
        self._waiting.append((asyncio.get_running_loop(), event))
        if not self._open.is_set():
            await event.wait()


class Upstream:
    """A server on a free port of this machine, and what it was asked.

    Args:
        models: What ``GET /v1/models`` lists.
        script: Answers what is posted; ``well`` if unset.

    Attributes:
        script: Answers every ``POST``; may be set at any time.
        listing: Answers every ``GET``; ``None`` lists ``models`` as OpenAI does.
        models: See above.
        seen: Every request, in the order of arrival.
        connections: How many connections were made.
    """

    def __init__(self, models: Iterable[str] = ("far",), script: Script = well) -> None:
        self.models = list(models)
        self.script = script
        self.listing: Script | None = None
        self.seen: list[Received] = []
        self.connections = 0
        self.port = 0
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._mistakes: list[BaseException] = []
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def url(self) -> str:
        """What belongs into ``base_url``."""
        return f"http://127.0.0.1:{self.port}/v1"

    @property
    def posts(self) -> list[Received]:
        """The requests that were posted."""
        return [request for request in self.seen if request.method == "POST"]

    async def __aenter__(self) -> Upstream:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._server is not None:
            self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if kind is None and self._mistakes:
            raise self._mistakes[0]

    def __enter__(self) -> Upstream:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self.__aenter__(), self._loop).result(BACKLOG_S)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        assert self._loop is not None
        assert self._thread is not None
        try:
            ending = asyncio.run_coroutine_threadsafe(self.__aexit__(kind), self._loop)
            ending.result(BACKLOG_S)
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(BACKLOG_S)
            self._loop.close()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.get_running_loop().create_task(self._serve(reader, writer, self.connections))
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (mistake := task.exception()) is not None:
            self._mistakes.append(mistake)

    async def _serve(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, connection: int
    ) -> None:
        number = 0
        try:
            while True:
                number += 1
                request = await _read(reader, connection, number)
                self.seen.append(request)
                reply = Reply(reader, writer)
                await self._script(request)(request, reply)
                if not reply.keeps_alive:
                    return
        except (asyncio.IncompleteReadError, ConnectionError):
            return  # the client went away
        finally:
            with contextlib.suppress(RuntimeError):  # the loop is being closed
                writer.close()

    def _script(self, request: Received) -> Script:
        if request.method == "POST":
            return self.script
        return self.listing or self._list

    async def _list(self, _request: Received, reply: Reply) -> None:
        rows = [{"id": name, "object": "model"} for name in self.models]
        await reply.json({"object": "list", "data": rows})


async def _read(reader: asyncio.StreamReader, connection: int, number: int) -> Received:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    first, *lines = head.removesuffix("\r\n\r\n").split("\r\n")
    method, path, _ = first.split(" ", 2)
    headers: dict[str, str] = {}
    for line in lines:
        name, _, value = line.partition(":")
        known = headers.get(name.lower())
        headers[name.lower()] = value.strip() if known is None else f"{known}, {value.strip()}"
    raw = await reader.readexactly(int(headers.get("content-length", 0)))
    return Received(method, path, headers, raw, connection, number)
