"""How a scripted upstream answers: the pen of a script, and the objects that servers write."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

Headers = Mapping[str, str]


class Reply:
    """Writes the answer to one request, as literally as the script wants it.

    Attributes:
        keeps_alive: Whether the connection stays open for a further request.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._chunked = False
        self.keeps_alive = True

    async def raw(self, data: str | bytes, piece: int | None = None) -> None:
        """Send bytes as they are.

        Args:
            data: Bytes; of a text its UTF-8, in which a lone surrogate stays one.
            piece: Bytes per network write; ``None`` sends all at once.
        """
        rest = data.encode("utf-8", "surrogatepass") if isinstance(data, str) else data
        size = max(1, piece or len(rest))
        for begin in range(0, len(rest), size):
            self._writer.write(rest[begin : begin + size])
            await self._writer.drain()
            if piece:
                await asyncio.sleep(0)  # the client may read before the next piece comes

    async def head(
        self, status: int = 200, headers: Headers | None = None, version: str = "1.1"
    ) -> None:
        """Send the status line and headers, and nothing else."""
        reason = HTTPStatus(status).phrase if status in set(HTTPStatus) else "Unknown"
        lines = [f"HTTP/{version} {status} {reason}"]
        lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
        await self.raw("\r\n".join(lines) + "\r\n\r\n")

    async def body(
        self,
        data: str | bytes,
        status: int = 200,
        headers: Headers | None = None,
        kind: str = "application/json",
    ) -> None:
        """Send a whole answer with its length; the connection stays open."""
        raw = data.encode("utf-8", "surrogatepass") if isinstance(data, str) else data
        stated = {"content-type": kind, "content-length": str(len(raw)), **(headers or {})}
        await self.head(status, stated)
        await self.raw(raw)

    async def json(self, value: Any, status: int = 200, headers: Headers | None = None) -> None:
        """Send a value as JSON."""
        await self.body(json.dumps(value), status, headers)

    async def start(
        self,
        status: int = 200,
        headers: Headers | None = None,
        kind: str = "text/event-stream",
        *,
        chunked: bool = True,
    ) -> None:
        """Begin a stream.

        Args:
            status: Of the answer.
            headers: Further headers.
            kind: The content type.
            chunked: Frame it in chunks, so that ``done`` ends it and a connection that is
                dropped cuts it off; otherwise the end of the connection is its end.
        """
        self._chunked = chunked
        framing = {"transfer-encoding": "chunked"} if chunked else {"connection": "close"}
        self.keeps_alive = self.keeps_alive and chunked
        await self.head(status, {"content-type": kind, **framing, **(headers or {})})

    async def part(self, data: str | bytes, piece: int | None = None) -> None:
        """Send bytes of a stream that was begun; ``piece`` as in ``raw``."""
        raw = data.encode("utf-8", "surrogatepass") if isinstance(data, str) else data
        if not self._chunked:
            await self.raw(raw, piece)
            return
        size = max(1, piece or len(raw))
        for begin in range(0, len(raw), size):
            part = raw[begin : begin + size]
            await self.raw(b"%x\r\n%s\r\n" % (len(part), part))
            await asyncio.sleep(0)

    async def event(self, value: Any) -> None:
        """Send one server-sent event: a text as it is, any other value as JSON."""
        data = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        await self.part(f"data: {data}\n\n")

    async def comment(self, text: str = "") -> None:
        """Send a comment, as servers do to keep a connection open."""
        await self.part(f": {text}\n\n")

    async def done(self) -> None:
        """Send ``[DONE]`` and the end of the stream."""
        await self.event("[DONE]")
        await self.end()

    async def end(self) -> None:
        """Send the regular end of a stream, without ``[DONE]``."""
        if self._chunked:
            await self.raw("0\r\n\r\n")
        self._chunked = False

    def drop(self, *, reset: bool = False) -> None:
        """Close the connection after this, with what was sent; ``reset`` tears it down."""
        self.keeps_alive = False
        if reset:
            self._writer.transport.abort()

    async def client_left(self) -> None:
        """Return once the client has closed its side."""
        while await self._reader.read(4096):
            pass


def chat_chunk(text: str | None = None, finish: str | None = None, **delta: Any) -> dict[str, Any]:
    """A chunk of a streamed chat completion.

    Args:
        text: Its content; none if unset.
        finish: The ``finish_reason``.
        **delta: Further fields of the delta, for example ``role`` or ``tool_calls``.

    Example:
        >>> chat_chunk("hi", role="assistant")["choices"][0]["delta"]
        {'role': 'assistant', 'content': 'hi'}
    """
    content = {} if text is None else {"content": text}
    choice = {"index": 0, "delta": {**delta, **content}, "finish_reason": finish}
    kind = "chat.completion.chunk"
    return {"id": "up", "object": kind, "created": 1, "model": "far", "choices": [choice]}


def text_chunk(text: str = "", finish: str | None = None) -> dict[str, Any]:
    """A chunk of a streamed text completion.

    Example:
        >>> text_chunk("hi")["choices"]
        [{'index': 0, 'text': 'hi', 'finish_reason': None}]
    """
    choice = {"index": 0, "text": text, "finish_reason": finish}
    kind = "text_completion"
    return {"id": "up", "object": kind, "created": 1, "model": "far", "choices": [choice]}


def usage(tokens_in: int, tokens_out: int, **more: Any) -> dict[str, Any]:
    """OpenAI's ``usage``, with further fields.

    Example:
        >>> usage(5, 2)
        {'prompt_tokens': 5, 'completion_tokens': 2, 'total_tokens': 7}
    """
    total = tokens_in + tokens_out
    counts = {"prompt_tokens": tokens_in, "completion_tokens": tokens_out, "total_tokens": total}
    return {**counts, **more}


def whole_answer(text: str, *, chat: bool, counted: dict[str, Any] | None = None) -> dict[str, Any]:
    """A whole answer of either endpoint.

    Example:
        >>> whole_answer("hi", chat=False)["choices"][0]["text"]
        'hi'
    """
    part = {"message": {"role": "assistant", "content": text}} if chat else {"text": text}
    return {
        "id": "up",
        "object": "chat.completion" if chat else "text_completion",
        "created": 1,
        "model": "far",
        "choices": [{"index": 0, **part, "finish_reason": "stop"}],
        "usage": usage(5, 2) if counted is None else counted,
    }
