"""The questions that we ask models ourselves (golden prompts, probes), as each model takes them.

A client knows the model it writes to; we ask every model the same. So a model's specification says
what is to be different (``golden_params``, ``thinking_tokens``), the endpoint is one that it has,
and what its server refuses by name is asked again in the way of newer servers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from hotswap_ray.core.fit.capabilities import canonicals
from hotswap_ray.core.outcome import Endpoint
from hotswap_ray.core.spec.golden import GoldenPrompt
from hotswap_ray.core.spec.task import ModelSpec

Body = dict[str, Any]
_NO_ENDPOINT = re.compile(r"status (404|405|501) of the server")


def own_body(spec: ModelSpec, body: Mapping[str, Any], *, room: bool = True) -> Body:
    """A question of ours with this model's parameters.

    Args:
        spec: The model.
        body: The question, as every model gets it.
        room: Whether a model that thinks gets tokens for it, on top of those for its answer.

    Example:
        >>> stated = {"temperature": None, "seed": 1}
        >>> spec = ModelSpec(id="a", engine="openai", golden_params=stated)
        >>> own_body(spec, {"max_tokens": 8, "temperature": 0})
        {'max_tokens': 8, 'seed': 1}
        >>> spec = ModelSpec(id="a", engine="openai", capabilities=("chat", "thinking"))
        >>> own_body(spec, {"max_tokens": 8})
        {'max_tokens': 1032}
    """
    own = dict(body)
    if room and "max_tokens" in own and "reasoning" in canonicals(spec.capabilities):
        # A server refuses a request for more than its context.
        own["max_tokens"] += min(spec.thinking_tokens, spec.context_tokens // 2)
    own |= spec.golden_params
    return {name: value for name, value in own.items() if value is not None}


def golden_question(
    spec: ModelSpec, golden: GoldenPrompt, *, room: bool = True
) -> tuple[Endpoint, Body]:
    """A golden prompt as a request to an endpoint that the model declares.

    Args:
        spec: The model.
        golden: The prompt.
        room: As in ``own_body``.

    Example:
        >>> spec = ModelSpec(id="a", engine="openai", capabilities=("chat",))
        >>> golden_question(spec, GoldenPrompt(prompt="Hello", max_tokens=4))[1]["messages"]
        [{'role': 'user', 'content': 'Hello'}]
    """
    body: Body = {"max_tokens": golden.max_tokens, "temperature": 0}
    if golden.stop:
        body["stop"] = list(golden.stop)
    if golden.prompt is None:
        body["messages"] = list(golden.messages or ())
    else:
        body["prompt"] = golden.prompt
    body = own_body(spec, body, room=room)
    endpoint: Endpoint = "completions" if golden.messages is None else "chat/completions"
    if endpoint not in endpoints(spec) and (other := elsewhere(spec, endpoint, body)):
        return other
    return endpoint, body


def endpoints(spec: ModelSpec) -> tuple[Endpoint, ...]:
    """Endpoints that a model declares; chat where it declares none.

    Example:
        >>> endpoints(ModelSpec(id="a", engine="openai"))
        ('completions', 'chat/completions')
    """
    declared = canonicals(spec.capabilities)
    every: tuple[tuple[str, Endpoint], ...] = (
        ("completions", "completions"),
        ("chat", "chat/completions"),
    )
    return tuple(endpoint for name, endpoint in every if name in declared) or ("chat/completions",)


def elsewhere(spec: ModelSpec, endpoint: Endpoint, body: Body) -> tuple[Endpoint, Body] | None:
    """A question at the other endpoint; ``None`` where the model has none, or it has no such form.

    Example:
        >>> spec = ModelSpec(id="a", engine="openai", capabilities=("completions",))
        >>> turns = [{"role": "user", "content": "Hello"}]
        >>> elsewhere(spec, "chat/completions", {"messages": turns, "seed": 1})
        ('completions', {'seed': 1, 'prompt': 'Hello'})
    """
    for other in endpoints(spec):
        if other == endpoint:
            continue
        rest = {name: value for name, value in body.items() if name not in ("prompt", "messages")}
        if other == "chat/completions":
            return other, {**rest, "messages": [{"role": "user", "content": body["prompt"]}]}
        texts = [turn.get("content") for turn in body["messages"]]
        if all(isinstance(text, str) for text in texts):
            return other, {**rest, "prompt": "\n".join(texts)}
    return None


def lacks_endpoint(refusal: str) -> bool:
    """Whether a refusal says that the server has no such endpoint.

    Example:
        >>> lacks_endpoint("m: not found (status 404 of the server)")
        True
    """
    return _NO_ENDPOINT.search(refusal) is not None


def in_other_words(body: Body, refusal: str) -> Body | None:
    """A question without the parameter that a server refused by name.

    Args:
        body: The question that was refused.
        refusal: What the server said.

    Returns:
        The question with ``max_completion_tokens`` for ``max_tokens``, or without ``temperature``
        (any is as good as its own for a check); ``None`` where the refusal is about something else.

    Example:
        >>> in_other_words({"max_tokens": 8}, "'max_tokens' is not supported")
        {'max_completion_tokens': 8}
        >>> in_other_words({"temperature": 0, "n": 1}, "only temperature 1 is supported")
        {'n': 1}
        >>> in_other_words({"temperature": 0}, "the prompt is too long") is None
        True
    """
    if "max_tokens" in body and re.search(r"\bmax_tokens\b", refusal):
        rest = {name: value for name, value in body.items() if name != "max_tokens"}
        return {**rest, "max_completion_tokens": body["max_tokens"]}
    if "temperature" in body and re.search(r"\btemperature\b", refusal, re.IGNORECASE):
        return {name: value for name, value in body.items() if name != "temperature"}
    return None
