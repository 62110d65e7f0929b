"""What both planes share of ASGI: reading a request, and answering in OpenAI's shape."""

from __future__ import annotations

import hmac
import math
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any

import orjson
from pydantic import SecretStr

from hotswap_ray.core.errors import (
    ContextExceeded,
    HotswapError,
    InvalidRequest,
    TooLarge,
    Unauthorized,
)

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
Header = tuple[bytes, bytes]
Headers = list[Header]

JSON = (b"content-type", b"application/json")
MOST_LEVELS = 64
"""Of a request's JSON: what is nested deeper may fail on its way to the model, which is blamed."""


def header(scope: Scope, name: bytes) -> str | None:
    """Value of a request header, its name in lower case."""
    for key, value in scope["headers"]:
        if key == name:
            return str(value.decode("latin-1"))
    return None


async def read_json(receive: Receive, max_bytes: int, *, optional: bool = False) -> dict[str, Any]:
    """The body of a request; with ``optional`` a missing one is an empty object.

    Raises:
        TooLarge: Longer than ``max_bytes``.
        InvalidRequest: Not a JSON object, or nested too deeply to be passed on.
    """
    parts, size = [], 0
    while True:
        message = await receive()
        part = message.get("body", b"")
        size += len(part)
        if size > max_bytes:
            raise TooLarge(f"the body exceeds {max_bytes} bytes (server.max_body_bytes)")
        parts.append(part)
        if not message.get("more_body"):
            break
    if optional and not size:
        return {}
    raw = b"".join(parts)
    try:
        body = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise InvalidRequest(f"the body is not JSON: {error}") from None
    if not isinstance(body, dict):
        raise InvalidRequest("the body must be a JSON object")
    # Counting is quick, so that most bodies need no walk.
    if raw.count(b"{") + raw.count(b"[") > MOST_LEVELS and not _is_shallow(body):
        raise InvalidRequest(f"the body is nested more than {MOST_LEVELS} levels deep")
    return body


def _is_shallow(body: dict[str, Any]) -> bool:
    level: list[Any] = [body]
    for _ in range(MOST_LEVELS):
        level = [
            inner
            for value in level
            for inner in (value.values() if isinstance(value, dict) else value)
            if isinstance(inner, dict | list)
        ]
        if not level:
            return True
    return False


def authorize(scope: Scope, keys: tuple[SecretStr, ...]) -> None:
    """Check the bearer token; no keys, no check.

    Raises:
        Unauthorized: Missing or wrong.
    """
    if not keys:
        return
    scheme, _, token = (header(scope, b"authorization") or "").partition(" ")
    sent = token.encode("latin-1") if scheme.lower() == "bearer" else b""
    if not any(hmac.compare_digest(sent, key.get_secret_value().encode()) for key in keys):
        raise Unauthorized("missing or wrong bearer token in the Authorization header")


def error_body(error: HotswapError) -> bytes:
    """OpenAI's error object."""
    kind = "invalid_request_error" if error.http_status < 500 else "server_error"
    message = error.message
    if isinstance(error, ContextExceeded):
        # By these words litellm knows the error, and not by its code.
        message += " (the prompt is longer than the model's context length)"
    return orjson.dumps(
        {"error": {"message": message, "type": kind, "param": None, "code": error.code}}
    )


async def send_error(send: Send, error: HotswapError, more: Iterable[Header] = ()) -> None:
    """Answer with an error; 429 and 503 say when to come back."""
    headers: Headers = [JSON, *more]
    if error.http_status in (429, 503):
        seconds = math.ceil(error.retry_after_s or 1.0)
        headers.append((b"retry-after", str(seconds).encode()))
    await send_bytes(send, error.http_status, error_body(error), headers)


async def send_json(send: Send, status: int, value: Any) -> None:
    """Answer with a JSON value."""
    await send_bytes(send, status, orjson.dumps(value), [JSON])


async def send_bytes(send: Send, status: int, body: bytes, headers: Headers) -> None:
    """Answer whole."""
    await send(start(status, [*headers, (b"content-length", str(len(body)).encode())]))
    await send({"type": "http.response.body", "body": body, "more_body": False})


def start(status: int, headers: Headers) -> dict[str, Any]:
    """The message that begins an answer."""
    return {"type": "http.response.start", "status": status, "headers": headers}
