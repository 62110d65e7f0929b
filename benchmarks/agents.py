"""Agents: a process of its own, conversations of many turns with tool loops.

A turn is a user's message with tools, one call of a tool or two in a row, each result sent back
at once or after a pause, and a text. Every conversation begins with another message, every second
one has an ``x-session-id``, and every second agent streams; the proxy chooses an ingress replica
for each request. It takes one JSON object as its argument (see ``Spec``) and prints one JSON
object, a row per request. ``agent_moves.Agents`` starts it, and says what must hold of the rows.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import threading
import time
from dataclasses import dataclass
from typing import Any

from load import DONE, MODEL_HEADER, Connection, verdict

TOOL = {
    "type": "function",
    "function": {
        "name": "look_up",
        "description": "Look something up.",
        "parameters": {"type": "object", "properties": {"what": {"type": "string"}}},
    },
}
PAUSES = 0.3
"""Share of the results that come after a pause."""
SECOND_CALLS = 0.3
"""Share of the turns with a second call."""


@dataclass(frozen=True)
class Spec:
    """What the agents do until stdin ends.

    Attributes:
        port: Port on this machine.
        tasks: Of the conversations, in turn.
        agents: Conversations at a time.
        turns: Of a conversation.
        pause_s: Longest pause before a result, and between two turns.
        timeout_s: A request without an end by then counts as hung.
        seed: Of pauses and second calls.
    """

    port: int
    tasks: list[str]
    agents: int
    turns: int = 20
    pause_s: float = 1.0
    timeout_s: float = 30.0
    seed: int = 1


class Lost(Exception):
    """A request had no good answer; its conversation ends."""


class Agent:
    """One conversation after another.

    Args:
        spec: What it does.
        number: Which agent it is, from 0.
        rows: Takes a row per request.
        stop: Set when no further turn shall begin.
    """

    def __init__(self, spec: Spec, number: int, rows: list[list], stop: asyncio.Event) -> None:
        self._spec = spec
        self._number = number
        self._rows = rows
        self._stop = stop
        self._random = random.Random(f"{spec.seed}/{number}")
        self._connection: Connection | None = None

    async def run(self) -> None:
        """Hold conversations until told to stop; the turn under way is ended."""
        count = 0
        await asyncio.sleep(self._random.random() * self._spec.pause_s)
        while not self._stop.is_set():
            task = self._spec.tasks[(self._number + count) % len(self._spec.tasks)]
            name, model = f"{task}/{self._number}-{count}", f"auto:{task}"
            session = name if (self._number // 2 + count) % 2 else None
            messages: list[dict[str, Any]] = [{"role": "system", "content": "You look things up."}]
            count += 1
            try:
                for turn in range(self._spec.turns):
                    messages.append({"role": "user", "content": f"{name} asks for {turn}"})
                    await self._turn(name, turn, model, session, messages)
                    if self._stop.is_set():
                        break
                    await asyncio.sleep(self._random.random() * self._spec.pause_s / 5)
            except Lost:
                await asyncio.sleep(0.2)

    async def _turn(
        self, name: str, turn: int, model: str, session: str | None, messages: list[dict[str, Any]]
    ) -> None:
        left = 2 if self._random.random() < SECOND_CALLS else 1
        step = 0
        while True:
            # A simulated model answers a result with text, unless a call is required.
            choice = "required" if step == 1 and left else "auto"
            body = {"model": model, "messages": messages, "tools": [TOOL], "tool_choice": choice}
            answer = await self._ask(name, turn, step, body, session)
            messages.append(answer)
            if not (calls := answer.get("tool_calls")):
                return
            left, step = left - 1, step + 1
            if self._random.random() < PAUSES:
                await asyncio.sleep(self._random.random() * self._spec.pause_s)
            messages += [
                {"role": "tool", "tool_call_id": call["id"], "content": "17"} for call in calls
            ]

    async def _ask(
        self, name: str, turn: int, step: int, body: dict[str, Any], session: str | None
    ) -> dict[str, Any]:
        loop = asyncio.get_running_loop()
        connection = self._connection
        if connection is None or connection.transport is None or connection.transport.is_closing():
            _, connection = await loop.create_connection(Connection, "127.0.0.1", self._spec.port)
            self._connection = connection
        streamed = bool(self._number % 2)
        payload = json.dumps({**body, "stream": streamed, "max_tokens": 8}).encode()
        more = f"x-session-id: {session}\r\n" if session else ""
        head = (
            "POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1\r\n"
            f"content-type: application/json\r\n{more}content-length: {len(payload)}\r\n\r\n"
        )
        started = time.monotonic()
        done = connection.send(head.encode() + payload)
        try:
            async with asyncio.timeout(self._spec.timeout_s):
                kind = verdict(await done, connection.head, connection.body, streamed)
        except TimeoutError:
            kind = "hung"
        ended = time.monotonic()
        found = MODEL_HEADER.search(connection.head)
        whole = connection.head + bytes(connection.body)
        self._rows.append(
            [
                *(name, turn, step, session is not None, started, connection.first_at or None),
                *(ended, kind, found.group(1).decode() if found else None),
                None if kind == "ok" else whole[:400].decode(errors="replace"),
            ]
        )
        if kind != "ok":
            if connection.transport is not None:
                connection.transport.abort()
            self._connection = None
            raise Lost
        return _streamed(connection.body) if streamed else _whole(connection.body)


def _whole(body: bytes | bytearray) -> dict[str, Any]:
    """The message of a whole answer."""
    message: dict[str, Any] = json.loads(body)["choices"][0]["message"]
    return message


def _streamed(body: bytes | bytearray) -> dict[str, Any]:
    """The message that the chunks of a stream make."""
    text, calls = "", {}
    for line in bytes(body).split(b"\n"):
        if not line.startswith(b"data: ") or line.startswith(DONE):
            continue
        for choice in json.loads(line[6:])["choices"]:
            text += choice["delta"].get("content") or ""
            for part in choice["delta"].get("tool_calls") or ():
                call = calls.setdefault(
                    part["index"],
                    {"id": "", "type": "function", "function": {"name": "", "arguments": ""}},
                )
                call["id"] += part.get("id") or ""
                function = part.get("function") or {}
                for name in ("name", "arguments"):
                    call["function"][name] += function.get(name) or ""
    message: dict[str, Any] = {"role": "assistant", "content": text or None}
    return {**message, "tool_calls": list(calls.values())} if calls else message


async def run(spec: Spec) -> list[list]:
    """All agents, until stdin ends."""
    rows: list[list] = []
    stop, loop = asyncio.Event(), asyncio.get_running_loop()

    def until_closed() -> None:
        sys.stdin.read()
        loop.call_soon_threadsafe(stop.set)

    threading.Thread(target=until_closed, daemon=True).start()
    agents = [Agent(spec, number, rows, stop) for number in range(spec.agents)]
    await asyncio.gather(*(agent.run() for agent in agents))
    return rows


if __name__ == "__main__":
    began = time.process_time()
    found = asyncio.run(run(Spec(**json.loads(sys.argv[1]))))
    print(json.dumps({"rows": found, "cpu_s": time.process_time() - began}))
