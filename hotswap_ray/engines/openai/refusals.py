"""What a server says when it does not answer, as one of our errors.

::

    400 413 422 that say so              ContextExceeded     the prompt is too long for the model
    429                                  Overloaded          with its Retry-After
    503 529                              Saturated           with its Retry-After: busy, not broken
    408 504                              EngineTimeout
    other 5xx                            EngineUnavailable
    401 402 403 404 405 407 410          EngineError         our key, our bill, our names: not the
                                                             client's fault, and a fallback may do
    3xx                                  EngineError         nothing is followed: the key stays here
    other 4xx                            InvalidRequest      with the server's message

Some servers answer 400 or 200 and say what is wrong only by a code, a type or a sentence, so these
are read as well.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from email.utils import parsedate_to_datetime
from typing import Any

import httpx

from hotswap_ray.core.errors import (
    ContextExceeded,
    EngineError,
    EngineTimeout,
    EngineUnavailable,
    HotswapError,
    InvalidRequest,
    Overloaded,
    Saturated,
)

MOST_CHARACTERS = 1000
"""Of a server's words in one of our errors."""

_NOT_THE_CLIENTS = {401, 402, 403, 404, 405, 407, 410}
_CONTEXT_CODES = re.compile(
    r"context_?length|context_?size|context_?window|prompt_?too_?long|input_?too_?long"
)
_CONTEXT_WORDS = re.compile(
    r"maximum context length|maximum model length|max_model_len"
    r"|(exceed|longer|larger|greater|too long|too large|fit|overflow)\w*\b"
    r".{0,80}\bcontext\b(?! deadline| cancel)"
    r"|\bcontext (length|size|window|limit).{0,80}\b(exceed|too (small|short)|reached|overflow)"
    r"|(prompt|inputs?|input tokens?|messages|request) (is|are) too (long|large)"
    r"|(prompt|input)\b.{0,40}\bexceed\w*\b.{0,60}\btokens?\b"
    r"|too many (input |prompt )?tokens|\binputs?`? tokens.{0,40}\bmust be\b"
    r"|\bthe context of\b.{0,80}\btokens\b",
    re.DOTALL,
)
_RATE = re.compile(r"rate_?limit|too_?many_?requests|throttl|quota|resource_?exhausted")
_BUSY = re.compile(r"overloaded|service_?unavailable|at_?capacity")
_KEY = re.compile(r"\bsk-[\w*-]+|[\w-]*\*{3,}[\w-]*")  # servers quote a wrong key, half hidden
_NO_SUCH_MODEL = re.compile(r"model_?not_?found|invalid_?model|unknown_?model|no_?such_?model")


def error_of(value: Any) -> Any:
    """The error that a body or the data of an event is; ``None`` if it is none.

    Example:
        >>> error_of({"error": {"message": "no"}}), error_of({"object": "error", "code": 1})
        ({'message': 'no'}, {'object': 'error', 'code': 1})
        >>> error_of({"choices": [], "error": None}) is None
        True
    """
    if isinstance(value, list) and len(value) == 1:  # some servers wrap it
        value = value[0]
    if not isinstance(value, dict):
        return None
    if error := value.get("error"):
        return error
    is_error = value.get("object") == "error" or value.get("type") == "error"
    if is_error or ("choices" not in value and (value.get("message") or value.get("detail"))):
        return value
    return None


def said_error(where: str, error: Any) -> HotswapError:
    """The error that stands where an answer should: in a body with status 200, or in a stream.

    Args:
        where: Begins the message; the model's id.
        error: What ``error_of`` gave.

    Returns:
        ``ContextExceeded``, ``Overloaded``, ``Saturated`` or, for all else, ``EngineError``.

    Example:
        >>> type(said_error("m", {"code": "rate_limit_exceeded", "message": "slow"})).__name__
        'Overloaded'
    """
    text = f"{where}: {message_of(error)}"
    code, words = _marks(error)
    if _CONTEXT_CODES.search(code) or _CONTEXT_WORDS.search(words):
        return ContextExceeded(text)
    if _RATE.search(code) or "429" in code.split():
        return Overloaded(text)
    if _BUSY.search(code) or {"503", "529"} & set(code.split()):
        return Saturated(text)
    return EngineError(text)


def refusal(
    where: str, status: int, headers: Mapping[str, str], body: bytes, now_s: float
) -> HotswapError:
    """The error that a status of 300 or more is.

    Args:
        where: Begins the message; the model's id.
        status: The HTTP status.
        headers: Of the answer, by lower-case name.
        body: As much of it as was read.
        now_s: Unix time, against which a date to retry after counts.

    Returns:
        One of our errors, in the server's words.
    """
    if status < 400:
        return EngineError(f"{where}: the server {_elsewhere(headers)} (status {status})")
    try:
        said = json.loads(body)
    except (ValueError, RecursionError):
        said = body.decode(errors="replace").strip()
    text = f"{where}: {message_of(said)} (status {status} of the server)"
    after_s = retry_after_s(headers, now_s)
    code, words = _marks(error_of(said) or said)
    if status in (400, 413, 422) and (_CONTEXT_CODES.search(code) or _CONTEXT_WORDS.search(words)):
        return ContextExceeded(text)
    if status == 429 or (status == 400 and _RATE.search(code)):
        return Overloaded(text, after_s)
    if status in (503, 529):
        return Saturated(text, after_s)
    if status in _NOT_THE_CLIENTS or (status < 500 and _NO_SUCH_MODEL.search(code)):
        return EngineError(text)
    if status in (408, 504):
        return EngineTimeout(text, after_s)
    return EngineUnavailable(text, after_s) if status >= 500 else InvalidRequest(text)


def message_of(body: Any) -> str:
    """The sentence in an error body, whichever of the usual shapes it has.

    Example:
        >>> message_of({"error": {"message": "no", "code": 1}}), message_of({"detail": ["a"]})
        ('no', 'a')
    """
    for _ in range(8):
        if isinstance(body, list) and len(body) == 1:
            body = body[0]
        elif isinstance(body, dict):
            inner = (body.get(key) for key in ("error", "message", "detail", "msg"))
            body = next(filter(None, inner), None) or json.dumps(body)
    text = body if isinstance(body, str) else json.dumps(body)
    text = " ".join(text.split()) or "no words"
    return text.encode("utf-8", "replace").decode()[:MOST_CHARACTERS]


def retry_after_s(headers: Mapping[str, str], now_s: float) -> float | None:
    """When to try again.

    Args:
        headers: Of the answer, by lower-case name.
        now_s: Unix time.

    Returns:
        Seconds, 0 and up; ``None`` where the server does not say.

    Example:
        >>> retry_after_s({"retry-after": "7"}, 0), retry_after_s({"retry-after": "soon"}, 0)
        (7.0, None)
        >>> retry_after_s({"retry-after": "Thu, 01 Jan 1970 00:01:00 GMT"}, 50)
        10.0
    """
    for name, unit_s in (("retry-after-ms", 0.001), ("retry-after", 1)):
        value = headers.get(name, "")
        try:
            seconds = float(value) * unit_s
        except ValueError:
            continue
        if math.isfinite(seconds):
            return max(0.0, seconds)
    try:
        at = parsedate_to_datetime(headers.get("retry-after", ""))
        return max(0.0, at.timestamp() - now_s)
    except (ValueError, TypeError, OverflowError):
        return None


def without(secrets: Iterable[str], error: HotswapError) -> HotswapError:
    """The same error, without what a client must not read.

    Args:
        secrets: Texts to black out, a text before its parts.
        error: Whose message may hold them: servers quote keys and addresses.

    Example:
        >>> without(["http://gpu7"], EngineError("http://gpu7: key sk-1****2 is wrong", 2.0)).args
        ('***: key *** is wrong', 2.0)
    """
    text = _KEY.sub("***", error.message)
    for secret in secrets:
        text = text.replace(secret, "***")
    return error if text == error.message else type(error)(text, error.retry_after_s)


def _marks(error: Any) -> tuple[str, str]:
    """Code and type of an error, lower-case and with spaces between, and its words."""
    fields = error if isinstance(error, dict) else {}
    inner = fields.get("error")
    fields = {**fields, **inner} if isinstance(inner, dict) else fields
    code = " ".join(str(fields.get(key) or "") for key in ("code", "type", "status"))
    return code.lower().replace("-", "_"), message_of(error).lower()


def _elsewhere(headers: Mapping[str, str]) -> str:
    """Where a redirect leads, by its host alone: a path may hold a token."""
    location = headers.get("location")
    if not location:
        return "answers with no content to read"
    try:
        host = httpx.URL(location).host
    except httpx.InvalidURL:
        host = "an address that is none"
    return f"redirects to {host or 'another path'}, which is not followed; mend base_url"
