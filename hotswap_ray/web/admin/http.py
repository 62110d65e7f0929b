"""What the parts of the control plane share: their time limit, what they read and answer."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any, TypeVar

import orjson
from pydantic import BaseModel, ValidationError
from starlette.requests import Request
from starlette.responses import JSONResponse

from hotswap_ray.config.checks import problems
from hotswap_ray.core.errors import InvalidRequest

QUICK_S = 30.0
LONGEST_WAIT_S = 86_400
MOST_ROWS = 10_000
Body = TypeVar("Body", bound=BaseModel)
Number = TypeVar("Number", int, float)


class Answer(JSONResponse):
    """The controller's answer as JSON; the etag of a swap or a test is a header too."""

    def __init__(self, content: Any) -> None:
        tagged = isinstance(content, dict) and "etag" in content
        super().__init__(content, headers={"etag": f'"{content["etag"]}"'} if tagged else None)

    def render(self, content: Any) -> bytes:
        """The bytes of the body."""
        return orjson.dumps(content)


async def quick(call: Awaitable[Any], more_s: float = 0.0) -> Any:
    """The controller's answer, within 30 s plus ``more_s``; raises ``TimeoutError`` after that."""
    async with asyncio.timeout(QUICK_S + more_s):
        return await call


def body_of(request: Request) -> dict[str, Any]:
    """The JSON object that ``AdminApi`` read; empty when there was no body."""
    body: dict[str, Any] = request.state.body
    return body


def parsed(shape: type[Body], request: Request) -> Body:
    """The body, with the swap id that may come as ``Idempotency-Key``.

    Raises:
        InvalidRequest: Each field that is wrong, and why.
    """
    body = body_of(request)
    key = request.headers.get("idempotency-key") if "swap_id" in shape.model_fields else None
    if key is not None and body.setdefault("swap_id", key) != key:
        raise InvalidRequest("swap_id and the Idempotency-Key header differ; send one of them")
    try:
        return shape.model_validate(body)
    except ValidationError as error:
        raise InvalidRequest(problems(error, shape)) from None


def number(name: str, text: str | None, default: Number, most: float) -> Number:
    """A number that a request gives as text: whole where the default is, and not below 0.

    Raises:
        InvalidRequest: It is none, or out of range.

    Example:
        >>> number("limit", "7", 50, most=100), number("wait_s", None, 0.5, most=100)
        (7, 0.5)
    """
    try:
        value = type(default)(text) if text else default
    except ValueError:
        value = type(default)(-1)
    if not 0 <= value <= most:  # also refuses NaN
        kind = "a whole number" if isinstance(default, int) else "a number"
        raise InvalidRequest(f"{name} must be {kind} from 0 to {most}")
    return value


def rows_asked(request: Request) -> tuple[str | None, int]:
    """The task that a list is narrowed to, and the most rows."""
    query = request.query_params
    limit = number("limit", query.get("limit"), 50, MOST_ROWS)
    return query.get("task") or None, limit


def condition(request: Request) -> dict[str, str]:
    """The etag that the client saw, if it stated one."""
    if_match = request.headers.get("if-match")
    return {} if if_match is None else {"if_match": if_match}


async def waited(controller: Any, record: Any, wait_s: float, until: str) -> Answer:
    """The record of a swap, after as long a wait as the client asked for."""
    if wait_s:
        record = await controller.wait(record["swap_id"], wait_s, until)
    return Answer(record)
