"""What the simulated engine answers: decided before the first token, by rule. Pure."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from functools import lru_cache
from random import Random
from typing import Any

import orjson

from hotswap_ray.core.errors import InvalidRequest
from hotswap_ray.core.outcome import Endpoint
from hotswap_ray.core.spec.task import ModelSpec
from hotswap_ray.engines.body.fields import read_fields, token_limit
from hotswap_ray.engines.body.formats import ANY_OBJECT, read_format
from hotswap_ray.engines.body.messages import read_messages
from hotswap_ray.engines.body.prompts import Prompt, read_prompts
from hotswap_ray.engines.body.refusals import context_exceeded, does_not, refuse_undone
from hotswap_ray.engines.body.tools import ToolWish, functions_as_tools, read_tools
from hotswap_ray.engines.simulated.options import SimulatedOptions
from hotswap_ray.engines.simulated.sample import sample

WRONG = "I do not know"
ANY_LENGTH = 100_000
"""Longest answer where no limit is asked for, in tokens."""


@dataclass(frozen=True, slots=True)
class Plan:
    """The answer to one prompt; all of its choices are the same.

    Attributes:
        prompt: As text.
        pieces: Tokens of the answer.
        finish: Why it ends.
        tokens_in: Of the prompt.
        n: Choices.
        echo: Whether the prompt is part of the answer.
        top_logprobs: Likeliest tokens to tell; ``None`` for no logprobs.
        call: Name and arguments of the tool that is called instead.
        has_functions: Whether calls are told in OpenAI's first way.
    """

    prompt: str
    pieces: tuple[str, ...]
    finish: str
    tokens_in: int
    n: int = 1
    echo: bool = False
    top_logprobs: int | None = None
    call: dict[str, str] | None = None
    has_functions: bool = False


class Planner:
    """Plans answers of one model.

    Args:
        spec: The model.
        options: What it is told to do.
        abilities: Capabilities that it really has.
    """

    def __init__(
        self, spec: ModelSpec, options: SimulatedOptions, abilities: Collection[str]
    ) -> None:
        self._spec = spec
        self._options = options
        self._abilities = frozenset(abilities)
        self._refused_endpoints = {
            endpoint
            for endpoint, name in (("chat/completions", "chat"), ("completions", "completions"))
            if name in options.lacks
        }
        self._fixed_answer = (
            None
            if options.knows or options.accuracy < 1 or "{prompt}" in options.answer
            else options.answer.replace("{model}", spec.id)
        )

    def plans(self, endpoint: Endpoint, body: dict[str, Any]) -> list[Plan]:
        """The answers to a body: one, or one for each prompt of a text completion.

        Raises:
            InvalidRequest: The body is malformed, or asks for what this model does not do.
        """
        asked = read_fields(endpoint, body)
        refuse_undone(self._spec, asked)
        if endpoint in self._refused_endpoints:
            raise InvalidRequest(f"{self._spec.id} does not take {endpoint}")
        if asked.get("n", 1) > 1 and "n" in self._options.lacks:
            raise does_not(self._spec, "give several answers")
        if asked.get("logprobs", False) is not False and "logprobs" not in self._abilities:
            raise does_not(self._spec, "tell logprobs")
        if endpoint == "completions":
            return [self._completion(asked, one) for one in read_prompts(asked.get("prompt"))]
        return [self._chat(functions_as_tools(asked), "functions" in asked)]

    def _completion(self, asked: dict[str, Any], prompt: Prompt) -> Plan:
        text = prompt if isinstance(prompt, str) else " ".join(map(str, prompt))
        counted = None if isinstance(prompt, str) else len(prompt)
        echo = asked.get("echo", False)
        plan = self._plan(asked, text, counted, token_limit(asked, may_be_none=echo))
        return replace(plan, echo=echo, top_logprobs=asked.get("logprobs"))

    def _chat(self, asked: dict[str, Any], has_functions: bool) -> Plan:
        takes = {"images"} if "vision" in self._abilities else set()
        messages = read_messages(self._spec, asked.get("messages"), takes=takes)
        plan = self._plan(asked, "\n".join(map(_text, messages)), None, token_limit(asked))
        wish = read_tools(asked)
        if "tools" not in self._abilities:
            # One that was told to lack them ignores tools, as such servers do.
            if wish.is_required and "tools" not in self._options.lacks:
                raise does_not(self._spec, "do tools")
            wish = ToolWish()
        # A result is answered with text, else a loop of calls would never end.
        if wish.is_required or (wish.tools and messages[-1]["role"] != "tool"):
            plan = replace(plan, call=_call(wish.tools[0]), finish="tool_calls")
        top = asked.get("top_logprobs", 0) if asked.get("logprobs") else None
        return replace(plan, top_logprobs=top, has_functions=has_functions)

    def _plan(
        self, asked: dict[str, Any], prompt: str, counted: int | None, limit: int | None
    ) -> Plan:
        spec = self._spec
        tokens_in = len(prompt) // 4 + 1 if counted is None else counted
        if "context" not in self._abilities:  # as servers that cut a prompt without a word
            tokens_in = min(tokens_in, spec.context_tokens // 2)
        room = spec.context_tokens - tokens_in
        if room < 1:
            raise context_exceeded(spec.id, tokens_in, spec.context_tokens)
        text = self._fixed_answer if self._fixed_answer is not None else self._answer(prompt)
        most = ANY_LENGTH if limit is None else limit
        pieces, finish = _cut(text, self._options.tokens, min(most, room))
        schema = read_format(asked.get("response_format"))
        if schema is not None and "json" in self._abilities:
            value = {"answer": text} if schema is ANY_OBJECT else sample(schema, text)
            pieces, finish = (orjson.dumps(value).decode(),), "stop"
        if "stop" in self._abilities and asked.get("stop"):
            pieces, finish = _stopped(pieces, finish, asked["stop"])
        return Plan(prompt, pieces, finish, tokens_in, asked.get("n", 1))

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


def _stopped(pieces: tuple[str, ...], finish: str, stop: list[str]) -> tuple[tuple[str, ...], str]:
    """The answer up to the first stop sequence, which is not part of it."""
    text = "".join(pieces)
    positions = [text.find(word) for word in stop]
    end = min((at for at in positions if at >= 0), default=-1)
    return (pieces, finish) if end < 0 else ((text[:end],), "stop")


def _call(tool: dict[str, Any]) -> dict[str, str]:
    """A call of a tool with a value for each argument."""
    function = tool["function"]
    arguments = sample(function.get("parameters") or {"type": "object"}, "simulated", every=True)
    return {"name": function["name"], "arguments": orjson.dumps(arguments).decode()}


def _text(message: dict[str, Any]) -> str:
    content = message["content"]
    if isinstance(content, str):
        return content
    return "\n".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
