"""Chunks of llama.cpp as a client expects them. Pure."""

from __future__ import annotations

from typing import Any

from hotswap_ray.engines.body.tools import calls_as_functions
from hotswap_ray.engines.llama_cpp.logprobs import LegacyLogprobs
from hotswap_ray.engines.llama_cpp.request import LlamaRequest


class ChunkShaper:
    """Turns the chunks of one answer, in their order.

    Args:
        request: What was asked.
    """

    def __init__(self, request: LlamaRequest) -> None:
        self._request = request
        self._legacy: dict[int, LegacyLogprobs] = {}
        self._texts: dict[int, str] = {}

    def shape(self, chunk: dict[str, Any]) -> dict[str, Any] | None:
        """The chunk for the client; ``None`` if there is nothing in it yet.

        Args:
            chunk: One with choices.
        """
        name = str(chunk["id"]).rpartition("-")[2]
        if self._request.endpoint == "completions":
            choices = [self._completion(choice) for choice in chunk["choices"]]
            return {**chunk, "id": f"cmpl-{name}", "choices": choices}
        choices = [made for choice in chunk["choices"] if (made := self._chat(choice, name))]
        return {**chunk, "choices": choices} if choices else None

    def legacy(self, index: int) -> LegacyLogprobs:
        """What makes the logprobs of a choice, which begin with its prompt if that is told."""
        return self._legacy.setdefault(index, LegacyLogprobs(self._request.top_logprobs or 0))

    def _completion(self, choice: dict[str, Any]) -> dict[str, Any]:
        if self._request.top_logprobs is None:
            return {**choice, "logprobs": None}
        entries = (choice.get("logprobs") or {}).get("content") or ()
        told = self.legacy(choice["index"]).add(entries, choice.get("text") or "")
        return {**choice, "logprobs": told if entries else None}

    def _chat(self, choice: dict[str, Any], name: str) -> dict[str, Any] | None:
        if self._request.forced is not None:
            return self._forced(choice, name)
        if (top := self._request.top_logprobs) is not None and choice.get("logprobs"):
            content = [
                entry | {"top_logprobs": entry["top_logprobs"][:top]}
                for entry in choice["logprobs"].get("content") or ()
            ]
            choice = {**choice, "logprobs": {**choice["logprobs"], "content": content}}
        return calls_as_functions(choice) if self._request.has_functions else choice

    def _forced(self, choice: dict[str, Any], name: str) -> dict[str, Any] | None:
        """Text is kept until it is whole, then told as a call."""
        forced, index = self._request.forced, choice["index"]
        assert forced is not None
        delta = choice.get("delta") or {}
        text = self._texts.get(index, "") + (delta.get("content") or "")
        self._texts[index] = text
        finish = choice.get("finish_reason")
        if finish is None:
            return {**choice, "delta": {"role": "assistant"}} if "role" in delta else None
        told: dict[str, Any] = {}
        if (function := forced.function(text)) is not None:
            own = f"call-{name}-{index}"
            call = {"id": own, "type": "function", "function": function}
            told = {"tool_calls": [{"index": 0, **call}]}
            finish = "tool_calls" if finish == "stop" else finish
        made = {**choice, "delta": told, "finish_reason": finish}
        return calls_as_functions(made) if self._request.has_functions else made


class UsageCount:
    """Adds up the counts of the choices of one request; llama.cpp counts each alone.

    Args:
        n: Choices of each prompt, all of which count the same prompt.
    """

    def __init__(self, n: int) -> None:
        self._n = n
        self._tokens_in = self._tokens_out = self._cached = 0

    def add(self, usage: dict[str, Any]) -> None:
        """Take the usage of one choice."""
        self._tokens_in += usage.get("prompt_tokens") or 0
        self._tokens_out += usage.get("completion_tokens") or 0
        self._cached += (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0

    def add_prompt(self, tokens_in: int) -> None:
        """Take a prompt that was read without an answer."""
        self._tokens_in += self._n * tokens_in

    def total(self) -> dict[str, Any]:
        """OpenAI's ``usage``.

        Example:
            >>> count = UsageCount(2)
            >>> for _ in range(2):
            ...     count.add({"prompt_tokens": 5, "completion_tokens": 3})
            >>> count.total()["prompt_tokens"], count.total()["completion_tokens"]
            (5, 6)
        """
        tokens_in = self._tokens_in // self._n
        return {
            "prompt_tokens": tokens_in,
            "completion_tokens": self._tokens_out,
            "total_tokens": tokens_in + self._tokens_out,
            "prompt_tokens_details": {"cached_tokens": self._cached // self._n},
        }
