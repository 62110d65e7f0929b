"""Makes an engine's chunks into frames, and knows which of them say something."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import orjson

SAYS = (
    *("content", "reasoning_content", "reasoning", "refusal"),
    *("tool_calls", "function_call", "audio"),
)
"""Parts of a delta that a person or a program reads."""


def says_something(chunk: dict[str, Any]) -> bool:
    """Whether a chunk is part of the answer: text, thinking, a call, a refusal, or an end.

    A role, an empty text and a progress report are none: a server sends them before it knows
    whether it can answer.

    Example:
        >>> says_something({"choices": [{"delta": {"role": "assistant", "content": ""}}]})
        False
        >>> says_something({"choices": [{"delta": {}, "finish_reason": "stop"}]})
        True
    """
    for choice in chunk.get("choices") or ():
        if choice.get("text") or choice.get("finish_reason"):
            return True
        delta = choice.get("delta")
        if delta and any(delta.get(part) for part in SAYS):
            return True
    return False


class Frames:
    """The frames of one stream, and what it took.

    Args:
        model: Name that the chunks get.
        marked: What becomes of a chunk before it is written.
    """

    def __init__(
        self, model: str, marked: Callable[[dict[str, Any]], dict[str, Any]] | None = None
    ) -> None:
        self._model = model
        self._marked = marked
        self._last: dict[str, Any] | None = None
        self.usage: dict[str, Any] = {}
        """The last one that the engine told, whole."""

    def take(self, chunk: dict[str, Any]) -> tuple[bytes | None, bool]:
        """The frame of a chunk, ``None`` where it has no choices, and whether it says something."""
        chunk["model"] = self._model
        if usage := chunk.pop("usage", None):
            self.usage, self._last = usage, chunk
        if not chunk.get("choices"):
            return None, False
        if self._marked is not None:
            chunk = self._marked(chunk)
        return b"data: " + orjson.dumps(chunk) + b"\n\n", says_something(chunk)

    def end(self, wants_usage: bool) -> bytes:
        """The frames after the last chunk: usage where it is wanted and known, and the end."""
        done = b"data: [DONE]\n\n"
        if not wants_usage or self._last is None:
            return done
        tail = {**self._last, "choices": [], "usage": self.usage}
        return b"data: " + orjson.dumps(tail) + b"\n\n" + done
