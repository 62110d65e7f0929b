"""Whether a request's body has the form that OpenAI's clients send; no engine has to ask again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hotswap_ray.core.errors import InvalidRequest

_NAMES = {
    type(None): "null",
    bool: "true or false",
    int: "a number",
    float: "a number",
    str: "a string",
    list: "a list",
    dict: "an object",
}


def check_chat(body: Mapping[str, Any]) -> None:
    """Check the messages.

    Raises:
        InvalidRequest: One is no message; its place in the list is named.

    Example:
        >>> check_chat({"messages": [{"role": "user", "content": 5}]})
        Traceback (most recent call last):
        ...
        hotswap_ray.core.errors.InvalidRequest: messages[0].content must be a string or a list \
of parts, not a number
    """
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise InvalidRequest("messages must be a list with at least one message")
    for index, message in enumerate(messages):
        if not isinstance(message, dict) or "role" not in message:
            raise InvalidRequest(f"messages[{index}] must be an object with a role")
        role, content = message["role"], message.get("content")
        if not isinstance(role, str) or not role:
            raise _wrong(f"messages[{index}].role", "a string such as user", role)
        if isinstance(content, list):
            for place, part in enumerate(content):
                _check_part(f"messages[{index}].content[{place}]", part)
        elif not isinstance(content, str | None):
            raise _wrong(f"messages[{index}].content", "a string or a list of parts", content)


def _check_part(place: str, part: Any) -> None:
    if not isinstance(part, dict):
        raise _wrong(place, "an object with a type", part)
    if not isinstance(part.get("type"), str):
        raise _wrong(f"{place}.type", "a string such as text", part.get("type"))
    if part["type"] == "text" and not isinstance(part.get("text"), str):
        raise _wrong(f"{place}.text", "a string", part.get("text"))


def check_completion(body: Mapping[str, Any]) -> None:
    """Check the prompt.

    Raises:
        InvalidRequest: It is neither text nor a list.
    """
    if not isinstance(body.get("prompt"), (str, list)):
        raise InvalidRequest("prompt must be a string or a list")


def check_stream(body: Mapping[str, Any]) -> bool:
    """Whether a stream is asked for.

    Raises:
        InvalidRequest: ``stream`` or ``stream_options`` has another type: a client that sends
            ``"true"`` means something, and a guess would be wrong half of the time.
    """
    stream, options = body.get("stream"), body.get("stream_options")
    if not isinstance(stream, bool | None):
        raise _wrong("stream", "true or false", stream)
    if not isinstance(options, dict | None):
        raise _wrong("stream_options", "an object", options)
    usage = options.get("include_usage") if options else None
    if not isinstance(usage, bool | None):
        raise _wrong("stream_options.include_usage", "true or false", usage)
    return bool(stream)


def _wrong(place: str, wanted: str, value: Any) -> InvalidRequest:
    return InvalidRequest(f"{place} must be {wanted}, not {_NAMES.get(type(value), 'that')}")
