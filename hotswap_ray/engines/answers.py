"""OpenAI answers: chunks put together, a whole answer cut into chunks, and what they cost."""

from __future__ import annotations

import math
from typing import Any

from hotswap_ray.core.outcome import Endpoint

_MERGED = {"index", "finish_reason", "text", "delta", "logprobs"}
_MAY_BE_EMPTY = {"role", "content", "reasoning", "reasoning_content"}

MOST_TOKENS = 2**53
"""A count above it is a mistake of the server, and more than JSON numbers are exact for."""


class UsageSum:
    """Adds the usage of an answer up, where each choice or prompt has a count of its own.

    So llama.cpp counts. A server that counts the whole answer each time wants ``LastUsage``.

    Args:
        many_prompts: The request holds several prompts, each with a count of its own;
            otherwise every count that comes is of the same prompt.
    """

    def __init__(self, *, many_prompts: bool = False) -> None:
        self._many_prompts = many_prompts
        self._tokens_in = 0
        self._tokens_out = 0

    def add(self, usage: dict[str, Any] | None) -> None:
        """Take the ``usage`` of one chunk, or its absence."""
        if not usage:
            return
        tokens_in = int(usage.get("prompt_tokens") or 0)
        self._tokens_in = (
            self._tokens_in + tokens_in if self._many_prompts else max(self._tokens_in, tokens_in)
        )
        self._tokens_out += int(usage.get("completion_tokens") or 0)

    def total(self) -> dict[str, int]:
        """OpenAI's ``usage``."""
        return {
            "prompt_tokens": self._tokens_in,
            "completion_tokens": self._tokens_out,
            "total_tokens": self._tokens_in + self._tokens_out,
        }


class LastUsage:
    """The usage that came last, of a server that counts the answer up to each chunk, or once.

    Fields that are not counted here (cached or reasoning tokens, times) are kept.

    Example:
        >>> usage = LastUsage()
        >>> usage.add({"prompt_tokens": 7, "completion_tokens": 1})
        >>> usage.add({"prompt_tokens": 7, "completion_tokens": 2, "cost": 0.1})
        >>> usage.total()
        {'prompt_tokens': 7, 'completion_tokens': 2, 'cost': 0.1, 'total_tokens': 9}
    """

    def __init__(self) -> None:
        self._fields: dict[str, Any] = {}

    def add(self, usage: Any) -> None:
        """Take the ``usage`` of one chunk; anything but a map is none."""
        if isinstance(usage, dict):
            self._fields |= {key: value for key, value in usage.items() if value is not None}

    @property
    def has_counts(self) -> bool:
        """Whether the server counted any token."""
        return bool(self._count("prompt_tokens") or self._count("completion_tokens"))

    def total(self) -> dict[str, Any]:
        """OpenAI's ``usage``: its three counts as whole numbers, and the other fields as sent."""
        tokens_in, tokens_out = self._count("prompt_tokens"), self._count("completion_tokens")
        counts = {"prompt_tokens": tokens_in, "completion_tokens": tokens_out}
        # Some servers count thinking in the total alone.
        total = max(tokens_in + tokens_out, self._count("total_tokens"))
        return {**self._fields, **counts, "total_tokens": total}

    def _count(self, name: str) -> int:
        return token_count(self._fields.get(name))


def token_count(value: Any) -> int:
    """A number of tokens, however odd a server writes it; 0 where it is none.

    Example:
        >>> [token_count(value) for value in (3, 3.0, "3", None, -1, "many", float("nan"))]
        [3, 3, 3, 0, 0, 0, 0]
    """
    if not isinstance(value, int | float | str) or isinstance(value, bool):
        return 0
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return 0
    return int(min(number, MOST_TOKENS)) if math.isfinite(number) and number > 0 else 0


def has_content(choice: dict[str, Any]) -> bool:
    """Whether a choice of a chunk says anything: text, thinking, a call, but not a role alone.

    Example:
        >>> has_content({"delta": {"role": "assistant", "content": ""}})
        False
        >>> has_content({"delta": {"reasoning_content": "hm"}}), has_content({"text": "a"})
        (True, True)
    """
    delta = choice.get("delta")
    said = delta.items() if isinstance(delta, dict) else ()
    return bool(choice.get("text") or any(value for key, value in said if key != "role"))


def as_chunks(answer: dict[str, Any]) -> list[dict[str, Any]]:
    """A whole answer as the chunks of a stream, for a server that does not stream.

    Args:
        answer: An OpenAI response object of either endpoint.

    Returns:
        One chunk for each choice, with all that it holds; ``usage`` is in each.

    Example:
        >>> message = {"role": "assistant", "content": "hi"}
        >>> choice = {"index": 0, "message": message, "finish_reason": "stop"}
        >>> as_chunks({"object": "chat.completion", "choices": [choice]})[0]["choices"]
        [{'index': 0, 'finish_reason': 'stop', 'delta': {'role': 'assistant', 'content': 'hi'}}]
    """
    chunks = []
    for number, whole in enumerate(answer["choices"]):
        choice = {"index": number, **{key: whole[key] for key in whole if key != "message"}}
        choice["finish_reason"] = choice.get("finish_reason") or "stop"
        chunk = {**answer, "choices": [choice]}
        if isinstance(message := whole.get("message"), dict):
            choice["delta"] = {**message}
            if isinstance(calls := message.get("tool_calls"), list):
                choice["delta"]["tool_calls"] = [
                    {"index": place, **call} for place, call in enumerate(calls)
                ]
            chunk["object"] = "chat.completion.chunk"
        chunks.append(chunk)
    return chunks


def assemble(endpoint: Endpoint, chunks: list[dict[str, Any]]) -> dict[str, Any]:
    """Make the whole answer of the chunks of a stream.

    Args:
        endpoint: Which of the two shapes the chunks have.
        chunks: All chunks, at least one; the last has ``usage``.

    Returns:
        An OpenAI response object.

    Example:
        >>> def chunk(text, end=None):
        ...     return {"id": "c", "choices": [{"index": 0, "text": text, "finish_reason": end}]}
        >>> last = {"id": "c", "choices": [], "usage": {"completion_tokens": 2}}
        >>> whole = assemble("completions", [chunk("a"), chunk("b", "stop"), last])
        >>> whole["choices"][0]["text"], whole["choices"][0]["finish_reason"]
        ('ab', 'stop')
    """
    choices: dict[int, dict[str, Any]] = {}
    for chunk in chunks:
        for part in chunk["choices"]:
            index = part.get("index") or 0
            choice = choices.setdefault(
                index, {"index": index, "finish_reason": None, "logprobs": None}
            )
            if part.get("logprobs"):
                choice["logprobs"] = choice["logprobs"] or {}
                _merge(choice["logprobs"], part["logprobs"])
            if endpoint == "completions":
                choice["text"] = choice.get("text", "") + (part.get("text") or "")
            else:
                message = choice.setdefault("message", {"role": "assistant", "content": None})
                _merge(message, part.get("delta") or {})
            choice["finish_reason"] = part.get("finish_reason") or choice["finish_reason"]
            choice |= {key: part[key] for key in part.keys() - _MERGED if part[key] is not None}
    for choice in choices.values():
        message = choice.get("message", {})
        if message and message.keys() <= _MAY_BE_EMPTY and message["content"] is None:
            message["content"] = ""  # clients expect a text of a message that is nothing else
    kind = "text_completion" if endpoint == "completions" else "chat.completion"
    return {
        **chunks[-1],
        "object": kind,
        "choices": [choices[index] for index in sorted(choices)],
    }


def _merge(into: dict[str, Any], delta: dict[str, Any]) -> None:
    """Append a delta: text to text, lists to lists, tool calls by their index."""
    for key, value in delta.items():
        if key == "role" or value is None:
            continue
        known = into.get(key)
        if key == "tool_calls":
            calls = into.setdefault(key, [])
            for call in value:
                part = {name: item for name, item in call.items() if name != "index"}
                place = call.get("index", len(calls))
                if place < len(calls):
                    _merge(calls[place], part)
                else:
                    calls.append(part)
        elif isinstance(value, dict) and isinstance(known, dict):
            _merge(known, value)
        elif key in ("id", "type") and known:  # some servers repeat them in every delta
            continue
        elif isinstance(value, str) and isinstance(known, str):
            into[key] = known + value
        elif isinstance(value, list) and isinstance(known, list):
            into[key] = [*known, *value]
        else:
            into[key] = value
