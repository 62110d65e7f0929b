"""A stand-in for an engine: seeded delays, answers and failures. It is never a model.

It exists to test and to measure everything around a model: every answer says
``"system_fingerprint": "simulated"``, and its text is looked up, not generated.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from functools import lru_cache
from itertools import count
from random import Random
from typing import Any, ClassVar, Literal

import orjson
from pydantic import BaseModel, ConfigDict, Field

from hotswap_ray.core.errors import (
    EngineError,
    EngineLoadFailed,
    EngineUnavailable,
    InvalidRequest,
    NotSupported,
)
from hotswap_ray.core.fit.capabilities import canonicals
from hotswap_ray.core.outcome import Endpoint
from hotswap_ray.core.spec.task import ModelSpec
from hotswap_ray.engines.base import default_deployment_options, parse_options

WRONG = "I do not know"
Ability = Literal[
    "chat", "completions", "context", "json", "reasoning", "stop", "stream_usage", "tools"
]


class SimulatedOptions(BaseModel):
    """Options of the simulated engine; all delays are 0 unless stated."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    seed: int = Field(0, description="Makes delays, failures and mistakes repeatable.")
    load_s: float = Field(0, ge=0, le=86_400, description="Time to load.")
    wake_s: float = Field(0, ge=0, le=86_400, description="Time to wake from sleep.")
    ttft_ms: float = Field(0, ge=0, le=3_600_000, description="Time to the first token.")
    token_ms: float = Field(0, ge=0, le=3_600_000, description="Time per further token.")
    jitter: float = Field(0, ge=0, le=1, description="Share by which delays vary, up and down.")
    tokens: int | None = Field(
        None, ge=1, le=100_000, description="Length the answer is repeated to; its own if unset."
    )
    answer: str = Field(
        "simulated answer",
        min_length=1,
        max_length=100_000,
        description="Answer; {model} and {prompt} are filled in.",
    )
    knows: dict[str, str] = Field(
        default_factory=dict, description="Part of a prompt to its right answer; the last wins."
    )
    accuracy: float = Field(1, ge=0, le=1, description="Share of prompts answered rightly.")
    failure_rate: float = Field(0, ge=0, le=1, description="Share of requests that fail.")
    failure_at_token: int = Field(
        0, ge=0, le=100_000, description="Tokens given before a request fails."
    )
    capacity: int = Field(
        0, ge=0, le=100_000, description="Requests worked on at once, others wait; 0 is no limit."
    )
    memory_bytes: int = Field(64 * 2**20, ge=1, le=2**50, description="Memory reported.")
    can_sleep: bool = Field(True, description="Whether sleep and wake are supported.")
    lacks: tuple[Ability, ...] = Field(
        (), description="Capabilities it does not have, whatever the model declares."
    )
    fail_on_load: Literal["none", "raise", "hang", "exit"] = Field(
        "none", description="Loading raises, never ends, or kills the process."
    )


class SimulatedEngine:
    """Answers by rule, after seeded delays. Never a model.

    The same seed and prompt give the same answer, whole or streamed.
    """

    Options: ClassVar[type[BaseModel]] = SimulatedOptions

    def __init__(self, spec: ModelSpec) -> None:
        self._spec = spec
        self._options: SimulatedOptions = parse_options(SimulatedEngine, spec)
        self._random = Random(self._options.seed)
        self._ids = count(1)
        self._state: Literal["new", "ready", "asleep", "stopped"] = "new"
        capacity = self._options.capacity
        self._slots: AbstractAsyncContextManager[None] = (
            asyncio.Semaphore(capacity) if capacity else nullcontext()
        )
        self._abilities = (
            canonicals(spec.capabilities) | {"stop", "stream_usage", "context"}
        ) - set(self._options.lacks)
        self._refused_endpoints = {
            endpoint
            for endpoint, name in (("chat/completions", "chat"), ("completions", "completions"))
            if name in self._options.lacks
        }
        self.in_flight = 0
        """Requests being worked on now."""
        self._fixed_answer = (
            None
            if self._options.knows
            or self._options.accuracy < 1
            or "{prompt}" in self._options.answer
            else self._options.answer.replace("{model}", spec.id)
        )

    @classmethod
    def deployment_options(cls, spec: ModelSpec) -> dict[str, Any]:
        """Ray options that ``spec`` asks for."""
        return default_deployment_options(spec)

    @classmethod
    def can_sleep(cls, spec: ModelSpec) -> bool:
        """As the option ``can_sleep`` says."""
        return bool(parse_options(cls, spec).can_sleep)

    async def start(self) -> None:
        """Take ``load_s``, then fail as ``fail_on_load`` says or become ready."""
        await self._pause(self._options.load_s * 1000)
        match self._options.fail_on_load:
            case "raise":
                raise EngineLoadFailed(f"{self._spec.id}: simulated failure to load")
            case "hang":
                await asyncio.Event().wait()
            case "exit":
                os._exit(1)
        self._state = "ready"

    async def generate(self, endpoint: Endpoint, body: dict[str, Any]) -> dict[str, Any]:
        """Answer whole; see ``Engine.generate``."""
        async with self._working():
            pieces, finish, usage = self._plan(endpoint, body)
            fails = self._fails()
            await self._pause(self._options.ttft_ms + self._options.token_ms * (len(pieces) - 1))
            if fails:
                raise EngineError(f"{self._spec.id}: simulated failure")
        choice: dict[str, Any] = {"index": 0, "finish_reason": finish, "logprobs": None}
        if endpoint == "completions":
            choice["text"] = "".join(pieces)
        else:
            message: dict[str, Any] = {"role": "assistant", "content": "".join(pieces)}
            if "reasoning" in self._abilities:
                message["reasoning_content"] = "simulated thought"
            if "tools" in self._abilities and body.get("tools"):
                message |= {"content": None, "tool_calls": [_call(body["tools"][0])]}
                choice["finish_reason"] = "tool_calls"
            choice["message"] = message
        return {**self._head(endpoint, chunk=False), "choices": [choice], "usage": usage}

    async def stream(
        self, endpoint: Endpoint, body: dict[str, Any]
    ) -> AsyncGenerator[dict[str, Any], None]:
        """Answer token by token; the last chunk has ``usage`` and no choices."""
        async with self._working():
            pieces, finish, usage = self._plan(endpoint, body)
            last = len(pieces) - 1
            fail_at = min(self._options.failure_at_token, last) if self._fails() else None
            head = self._head(endpoint, chunk=True)
            for index, piece in enumerate(pieces):
                await self._pause(self._options.token_ms if index else self._options.ttft_ms)
                if index == fail_at:
                    raise EngineError(f"{self._spec.id}: simulated failure")
                choice: dict[str, Any] = {
                    "index": 0,
                    "finish_reason": finish if index == last else None,
                }
                if endpoint == "completions":
                    choice["text"] = piece
                elif index:
                    choice["delta"] = {"content": piece}
                else:
                    choice["delta"] = {"role": "assistant", "content": piece}
                yield {**head, "choices": [choice]}
            if "stream_usage" not in self._abilities:
                usage = dict.fromkeys(usage, 0)
            yield {**head, "choices": [], "usage": usage}

    async def sleep(self) -> None:
        """Report a tenth of the memory until ``wake``."""
        if not self._options.can_sleep:
            raise NotSupported(f"{self._spec.id}: this simulated engine cannot sleep")
        self._check_ready()
        self._state = "asleep"

    async def wake(self) -> None:
        """Take ``wake_s`` and be ready again; at once if awake."""
        if not self._options.can_sleep:
            raise NotSupported(f"{self._spec.id}: this simulated engine cannot sleep")
        if self._state == "asleep":
            await self._pause(self._options.wake_s * 1000)
            self._state = "ready"

    async def stop(self) -> None:
        """Refuse further requests."""
        self._state = "stopped"

    def memory_bytes(self) -> int:
        """The memory stated in the options; nothing is measured."""
        stated = self._options.memory_bytes
        return max(1, stated // 10) if self._state == "asleep" else stated

    async def check_health(self) -> None:
        """Raise ``EngineUnavailable`` before ``start`` and after ``stop``."""
        if self._state in ("new", "stopped"):
            raise EngineUnavailable(f"{self._spec.id}: the simulated engine is {self._state}")

    def _check_ready(self) -> None:
        if self._state != "ready":
            raise EngineUnavailable(f"{self._spec.id}: the simulated engine is {self._state}")

    @asynccontextmanager
    async def _working(self) -> AsyncIterator[None]:
        async with self._slots:
            self._check_ready()
            self.in_flight += 1
            try:
                yield
            finally:
                self.in_flight -= 1

    def _fails(self) -> bool:
        return self._options.failure_rate > 0 and self._random.random() < self._options.failure_rate

    async def _pause(self, delay_ms: float) -> None:
        if delay_ms > 0:
            swing = 1 + self._options.jitter * self._random.uniform(-1, 1)
            await asyncio.sleep(delay_ms * swing / 1000)

    def _head(self, endpoint: Endpoint, *, chunk: bool) -> dict[str, Any]:
        if endpoint == "completions":
            prefix, kind = "cmpl", "text_completion"
        else:
            prefix, kind = "chatcmpl", "chat.completion.chunk" if chunk else "chat.completion"
        return {
            "id": f"{prefix}-{self._spec.id}-{next(self._ids)}",
            "object": kind,
            "created": int(time.time()),
            "model": self._spec.id,
            "system_fingerprint": "simulated",
        }

    def _plan(
        self, endpoint: Endpoint, body: dict[str, Any]
    ) -> tuple[tuple[str, ...], str, dict[str, int]]:
        prompt = _prompt(endpoint, body)
        limit = body.get("max_tokens") or body.get("max_completion_tokens") or 100_000
        if not isinstance(limit, int) or limit < 1:
            raise InvalidRequest(f"max_tokens must be a positive integer, not {limit!r}")
        tokens_in = len(prompt) // 4 + 1
        if endpoint in self._refused_endpoints:
            raise InvalidRequest(f"{self._spec.id} does not take {endpoint}")
        if "context" not in self._abilities:  # as servers that cut a prompt without a word
            tokens_in = min(tokens_in, self._spec.context_tokens // 2)
        room = self._spec.context_tokens - tokens_in
        if room < 1:
            raise InvalidRequest(
                f"the prompt has {tokens_in} tokens, but the context of {self._spec.id} "
                f"is {self._spec.context_tokens} tokens"
            )
        text = self._fixed_answer if self._fixed_answer is not None else self._answer(prompt)
        pieces, finish = _cut(text, self._options.tokens, min(limit, room))
        if "json" in self._abilities and body.get("response_format"):
            pieces, finish = (orjson.dumps({"answer": text}).decode(),), "stop"
        if "stop" in self._abilities and body.get("stop"):
            pieces, finish = _stopped(pieces, finish, body["stop"])
        usage = {
            "prompt_tokens": tokens_in,
            "completion_tokens": len(pieces),
            "total_tokens": tokens_in + len(pieces),
        }
        return pieces, finish, usage

    def _answer(self, prompt: str) -> str:
        options = self._options
        if options.accuracy < 1 and Random(f"{options.seed}:{prompt}").random() >= options.accuracy:
            return WRONG
        last_known = max(options.knows, key=prompt.rfind, default=None)
        if last_known is not None and last_known in prompt:
            return options.knows[last_known]
        return options.answer.replace("{model}", self._spec.id).replace("{prompt}", prompt)


@lru_cache(maxsize=1024)
def _cut(text: str, tokens: int | None, limit: int) -> tuple[tuple[str, ...], str]:
    """Split into word tokens, repeated to ``tokens``, cut at ``limit``, with the finish reason."""
    words = text.split(" ")
    length = len(words) if tokens is None else tokens
    pieces = [words[index % len(words)] for index in range(min(length, limit))]
    spaced = (piece if index == 0 else f" {piece}" for index, piece in enumerate(pieces))
    return tuple(spaced), "stop" if length <= limit else "length"


def _stopped(
    pieces: tuple[str, ...], finish: str, stop: str | list[str]
) -> tuple[tuple[str, ...], str]:
    """The answer up to the first stop sequence, which is not part of it."""
    text = "".join(pieces)
    positions = [text.find(word) for word in ([stop] if isinstance(stop, str) else stop) if word]
    end = min((at for at in positions if at >= 0), default=-1)
    return (pieces, finish) if end < 0 else ((text[:end],), "stop")


def _call(tool: dict[str, Any]) -> dict[str, Any]:
    """A call of a tool with a value for each argument."""
    function = tool["function"]
    names = function.get("parameters", {}).get("properties", {})
    arguments = orjson.dumps(dict.fromkeys(names, "simulated")).decode()
    function_call = {"name": function["name"], "arguments": arguments}
    return {"id": "call-simulated", "type": "function", "function": function_call}


def _prompt(endpoint: Endpoint, body: dict[str, Any]) -> str:
    if endpoint == "completions":
        prompt = body.get("prompt")
        if not isinstance(prompt, str) or not prompt:
            raise InvalidRequest("completions need a prompt, a string that is not empty")
        return prompt
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise InvalidRequest("chat completions need messages, a list that is not empty")
    parts = []
    for message in messages:
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise InvalidRequest("each message needs a role and content")
        content = message.get("content")
        if isinstance(content, str):
            parts.append(content)
        elif isinstance(content, list):
            parts.extend(str(part.get("text", "")) for part in content if isinstance(part, dict))
    return "\n".join(parts)
