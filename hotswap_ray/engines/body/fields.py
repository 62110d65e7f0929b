"""The fields of an OpenAI body: their types and ranges, and null for absent."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hotswap_ray.core.errors import InvalidRequest
from hotswap_ray.core.outcome import Endpoint

MOST_TOKENS = 2**64
"""Above this a limit is a mistake; below it, one that no context reaches is no limit."""
MOST_LOGPROBS = 20
MOST_CHOICES = 128

Check = Callable[[str, Any], None]


def read_fields(endpoint: Endpoint, body: dict[str, Any]) -> dict[str, Any]:
    """The body without nulls, when all that it says can be meant.

    Fields that are not known here are kept: they may be the engine's own.

    Args:
        endpoint: Where the body was sent.
        body: As the client sent it.

    Returns:
        A new body: ``stop`` is a list without empty strings or absent.

    Raises:
        InvalidRequest: A field has a wrong type or is out of its range; it is named.

    Example:
        >>> read_fields("completions", {"prompt": "a", "n": None, "stop": "."})
        {'prompt': 'a', 'stop': ['.']}
        >>> read_fields("completions", {"prompt": "a", "temperature": 3})
        Traceback (most recent call last):
            ...
        hotswap_ray.core.errors.InvalidRequest: temperature must be a number from 0 to 2, not 3
    """
    body = {name: value for name, value in body.items() if value is not None}
    for name, check in (COMMON | (CHAT if endpoint == "chat/completions" else TEXT)).items():
        if name in body:
            check(name, body[name])
    if "stop" in body:
        stop = body.pop("stop")
        if words := [word for word in ([stop] if isinstance(stop, str) else stop) if word]:
            body["stop"] = words
    if endpoint == "chat/completions" and body.get("top_logprobs") and not body.get("logprobs"):
        raise InvalidRequest("top_logprobs needs logprobs: true")
    return body


def token_limit(body: dict[str, Any], *, may_be_none: bool = False) -> int | None:
    """The longest answer that a body asks for, in tokens.

    Args:
        body: Without nulls. With both of OpenAI's names the smaller limit holds.
        may_be_none: Whether 0 is taken: nothing is to be generated.

    Returns:
        The limit, or ``None`` if the body has none.

    Raises:
        InvalidRequest: A limit is no positive integer.

    Example:
        >>> token_limit({"max_tokens": 7, "max_completion_tokens": 5}), token_limit({})
        (5, None)
    """
    limits = []
    for name in ("max_tokens", "max_completion_tokens"):
        limit = body.get(name)
        if limit is None:
            continue
        least = 0 if may_be_none else 1
        if not _is_integer(limit) or not least <= limit <= MOST_TOKENS:
            raise InvalidRequest(f"{name} must be a positive integer, not {limit!r}")
        limits.append(limit)
    return min(limits, default=None)


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _integer(least: int, most: int) -> Check:
    def check(name: str, value: Any) -> None:
        if not _is_integer(value) or not least <= value <= most:
            raise InvalidRequest(f"{name} must be an integer from {least} to {most}, not {value!r}")

    return check


def _number(least: float, most: float) -> Check:
    def check(name: str, value: Any) -> None:
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or not least <= value <= most:
            raise InvalidRequest(
                f"{name} must be a number from {least:g} to {most:g}, not {value!r}"
            )

    return check


def _boolean(name: str, value: Any) -> None:
    if not isinstance(value, bool):
        raise InvalidRequest(f"{name} must be true or false, not {value!r}")


def _text(name: str, value: Any) -> None:
    if not isinstance(value, str):
        raise InvalidRequest(f"{name} must be a string, not {value!r}")


def _stop(name: str, value: Any) -> None:
    words = value if isinstance(value, list) else [value]
    if not all(isinstance(word, str) for word in words):
        raise InvalidRequest(f"{name} must be a string or a list of strings, not {value!r}")


def _stream_options(name: str, value: Any) -> None:
    if not isinstance(value, dict):
        raise InvalidRequest(f"{name} must be an object, not {value!r}")
    if value.get("include_usage") is not None:
        _boolean(f"{name}.include_usage", value["include_usage"])


def _logit_bias(name: str, value: Any) -> None:
    if not isinstance(value, dict):
        raise InvalidRequest(f"{name} must map token ids to numbers, not be {value!r}")
    for token, bias in value.items():
        if not str(token).isdecimal():
            raise InvalidRequest(f"{name}: {token!r} is no token id")
        _number(-100, 100)(f"{name}.{token}", bias)


COMMON: dict[str, Check] = {
    "n": _integer(1, MOST_CHOICES),
    "seed": _integer(-(2**63), 2**64),
    "temperature": _number(0, 2),
    "top_p": _number(0, 1),
    "presence_penalty": _number(-2, 2),
    "frequency_penalty": _number(-2, 2),
    "stop": _stop,
    "stream": _boolean,
    "stream_options": _stream_options,
    "logit_bias": _logit_bias,
    "user": _text,
}
CHAT: dict[str, Check] = {
    "logprobs": _boolean,
    "top_logprobs": _integer(0, MOST_LOGPROBS),
    "parallel_tool_calls": _boolean,
    "reasoning_effort": _text,
}
TEXT: dict[str, Check] = {
    "logprobs": _integer(0, MOST_LOGPROBS),
    "echo": _boolean,
    "suffix": _text,
    "best_of": _integer(1, MOST_CHOICES),
}
