"""OpenAI chunk objects put together again: the whole answer, and its usage."""

from __future__ import annotations

from typing import Any

from hotswap_ray.core.outcome import Endpoint


class UsageSum:
    """Adds the usage of an answer up, however its server spread it over the chunks.

    Args:
        many_prompts: The request holds several prompts, each with a count of its own;
            otherwise every count that comes is of the same prompt.
    """

    def __init__(self, *, many_prompts: bool = False) -> None:
        self._many_prompts = many_prompts
        self._tokens_in = 0
        self._tokens_out = 0
        self.has_counts = False

    def add(self, usage: dict[str, Any] | None) -> None:
        """Take the ``usage`` of one chunk, or its absence."""
        if not usage:
            return
        self.has_counts = True
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
            choice = choices.setdefault(
                part["index"], {"index": part["index"], "finish_reason": None, "logprobs": None}
            )
            if part.get("finish_reason"):
                choice["finish_reason"] = part["finish_reason"]
            if part.get("logprobs"):
                choice["logprobs"] = choice["logprobs"] or {}
                _merge(choice["logprobs"], part["logprobs"])
            if endpoint == "completions":
                choice["text"] = choice.get("text", "") + (part.get("text") or "")
            else:
                message = choice.setdefault("message", {"role": "assistant", "content": None})
                _merge(message, part.get("delta") or {})
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
        if key == "tool_calls":
            calls = into.setdefault(key, [])
            for call in value:
                part = {name: item for name, item in call.items() if name != "index"}
                if call["index"] < len(calls):
                    _merge(calls[call["index"]], part)
                else:
                    calls.append(part)
        elif isinstance(value, dict) and isinstance(into.get(key), dict):
            _merge(into[key], value)
        elif isinstance(value, str | list) and into.get(key) is not None:
            into[key] = into[key] + value
        else:
            into[key] = value
