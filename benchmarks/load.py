"""The load generator: a process of its own, closed loops over raw HTTP/1.1 keep-alive.

Light on purpose (about 0.1 ms of CPU a request): on a small machine it competes with what
it measures. It takes one JSON object as its argument (see ``Spec``) and prints one JSON
object: a row per request. ``common.Load`` starts it.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
import threading
import time
from dataclasses import dataclass, field

LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
MODEL_HEADER = re.compile(rb"\r\nx-hotswap-model: *([^\r]+)", re.IGNORECASE)
MODEL_BODY = re.compile(rb'"model": ?"([^"]+)"')
DONE = b"data: [DONE]"


@dataclass(frozen=True)
class Spec:
    """What to send.

    Attributes:
        port: Port on this machine.
        path: Path of the POST.
        bodies: JSON bodies, sent in turn by every connection.
        concurrency: Connections; each has one request in flight.
        duration_s: Time after which no new request begins; ``None`` until stdin ends.
        min_requests: Go on until this many were answered.
        timeout_s: A request without an end by then counts as hung.
        headers: More request headers.
        conversation: Requests after which a connection begins a conversation with another
            ``x-session-id``; 0 sends none.
        pace_s: Least time between the beginnings of two requests of a connection; they are
            spread over it.
    """

    port: int
    path: str
    bodies: list[dict]
    concurrency: int
    duration_s: float | None = None
    min_requests: int = 0
    timeout_s: float = 30.0
    headers: dict[str, str] = field(default_factory=dict)
    conversation: int = 0
    pace_s: float = 0.0


class Connection(asyncio.Protocol):
    """One keep-alive connection, one request at a time."""

    def __init__(self) -> None:
        self.done: asyncio.Future[bool] | None = None
        self.transport: asyncio.Transport | None = None
        self._reset()

    def _reset(self) -> None:
        self.head = b""
        self.first_at = 0.0
        self.body = bytearray()
        self._buffer = b""
        self._left: int | None = None  # bytes of the body to come; None when chunked

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio."""
        self.transport = transport  # type: ignore[assignment]

    def connection_lost(self, error: Exception | None) -> None:
        """See asyncio; an answer that has not ended by now is cut short."""
        self.transport = None
        if self.done is not None and not self.done.done():
            self.done.set_result(False)

    def send(self, request: bytes) -> asyncio.Future[bool]:
        """Send; the future says whether the answer reached its end."""
        self._reset()
        self.done = asyncio.get_running_loop().create_future()
        self.transport.write(request)
        return self.done

    def data_received(self, data: bytes) -> None:
        """See asyncio."""
        if self.done is None or self.done.done():
            return
        if not self.head:
            self._buffer += data
            end = self._buffer.find(b"\r\n\r\n")
            if end < 0:
                return
            self.first_at = time.monotonic()
            self.head, data = self._buffer[: end + 2], self._buffer[end + 4 :]
            self._buffer = b""
            length = LENGTH.search(self.head)
            self._left = int(length.group(1)) if length else None
        if self._left is not None:
            self.body += data
            if len(self.body) >= self._left:
                self.done.set_result(True)
            return
        self._buffer += data
        while (end := self._buffer.find(b"\r\n")) >= 0:
            size = int(self._buffer[:end], 16)
            stop = end + 2 + size
            if len(self._buffer) < stop + 2:
                return
            self.body += self._buffer[end + 2 : stop]
            self._buffer = self._buffer[stop + 2 :]
            if size == 0:
                self.done.set_result(True)
                return


def verdict(ended: bool, head: bytes, body: bytes, streamed: bool) -> str:
    """``ok``, ``failed`` (an error came) or ``truncated`` (no end came)."""
    status = head[9:12]
    if head and status != b"200":
        return "failed"
    if not ended:
        return "truncated" if head else "failed"
    if streamed and not body.rstrip().endswith(DONE):
        return "failed" if b'"error"' in body else "truncated"
    return "ok"


async def run(spec: Spec) -> list[list]:
    """Send until the end; a row per request: start, first byte, end, kind, models and more."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    if spec.duration_s is None:

        def until_closed() -> None:
            sys.stdin.read()
            loop.call_soon_threadsafe(stop.set)

        threading.Thread(target=until_closed, daemon=True).start()
    else:
        loop.call_later(spec.duration_s, stop.set)
    more = "".join(f"{name}: {value}\r\n" for name, value in spec.headers.items())
    requests = []
    for body in spec.bodies:
        payload = json.dumps(body).encode()
        head = (
            f"POST {spec.path} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
            f"{more}content-length: {len(payload)}\r\n\r\n"
        )
        requests.append((head.encode() + payload, bool(body.get("stream"))))
    rows: list[list] = []

    async def worker(number: int) -> None:
        connection, turn = Connection(), number
        due = loop.time() + spec.pace_s * number / spec.concurrency
        while not stop.is_set() or len(rows) < spec.min_requests:
            if connection.transport is None or connection.transport.is_closing():
                _, connection = await loop.create_connection(Connection, "127.0.0.1", spec.port)
            request, streamed = requests[turn % len(requests)]
            session = None
            if spec.conversation:
                session = f"{number}-{turn // spec.conversation}"
                request = request.replace(b"\r\n", f"\r\nx-session-id: {session}\r\n".encode(), 1)
            turn += 1
            if spec.pace_s:
                await asyncio.sleep(max(0.0, due - loop.time()))
                due = max(due, loop.time() - spec.pace_s) + spec.pace_s
            started = time.monotonic()
            done = connection.send(request)
            try:
                async with asyncio.timeout(spec.timeout_s):
                    kind = verdict(await done, connection.head, connection.body, streamed)
            except TimeoutError:
                kind = "hung"
            if kind != "ok" and connection.transport is not None:
                connection.transport.abort()
                connection.transport = None
            ended = time.monotonic()
            header = MODEL_HEADER.search(connection.head)
            named = {name.decode() for name in MODEL_BODY.findall(connection.body)}
            rows.append(
                [
                    started,
                    connection.first_at or None,
                    ended,
                    kind,
                    header.group(1).decode() if header else None,
                    sorted(named),
                    streamed,
                    None if kind == "ok" else (connection.head + connection.body)[:300].decode(),
                    session,
                ]
            )

    await asyncio.gather(*(worker(number) for number in range(spec.concurrency)))
    return rows


if __name__ == "__main__":
    began = time.process_time()
    found = asyncio.run(run(Spec(**json.loads(sys.argv[1]))))
    print(json.dumps({"rows": found, "cpu_s": time.process_time() - began}))
