"""The control plane under ``/admin``: what operators and their scripts ask over HTTP."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Literal, TypeVar

import orjson
from pydantic import BaseModel, Field, ValidationError

from hotswap_ray.config import ServerConfig
from hotswap_ray.config.checks import problems
from hotswap_ray.core.errors import (
    EngineUnavailable,
    HotswapError,
    InvalidRequest,
    MethodNotAllowed,
    NotFound,
)
from hotswap_ray.core.names import Name, Strict
from hotswap_ray.core.routing.table import unknown
from hotswap_ray.core.swap.events import is_wanted
from hotswap_ray.web.admin.ab_tests import ABTestApi
from hotswap_ray.web.admin.parts import NAME, query_of, quick
from hotswap_ray.web.admin.schedules import ScheduleApi
from hotswap_ray.web.openai_api import (
    JSON,
    SSE,
    Receive,
    Scope,
    Send,
    authorize,
    header,
    read_json,
    send_bytes,
)

POLL_S = 0.3
HEARTBEAT_S = 15.0
SwapId = Name
Handler = Callable[..., Awaitable[Any]]
Body = TypeVar("Body", bound=BaseModel)


class RollbackRequest(Strict):
    """What begins a swap, or takes one back, may say."""

    swap_id: SwapId | None = Field(None, description="Asking again with it changes nothing.")
    wait_s: float = Field(
        0, ge=0, le=86_400, description="Longest wait until it serves or has ended."
    )


class BackRequest(RollbackRequest):
    """Body of ``POST tasks/{task}/rollback``."""

    to: str | None = Field(None, max_length=63, description="One of its generations.")


class SwapRequest(RollbackRequest):
    """Body of ``POST tasks/{task}/swap``."""

    model: Name = Field(description="Model that shall serve the task.")
    bake_s: float | None = Field(None, ge=0, le=604_800, description="Overrides swap.bake_s.")
    strategy: Literal["auto", "overlap", "sleep", "drain_first"] | None = Field(
        None, description="Overrides swap.strategy."
    )
    compatibility: Literal["strict", "warn"] | None = Field(
        None, description="Overrides swap.compatibility."
    )
    canary: str | None = Field(
        None, max_length=200, description="Percentages, for example 5,25; overrides the steps."
    )
    until: Literal["switched", "end"] = Field(
        "switched", description="What wait_s waits for: the model serves, or the swap ended."
    )
    dry_run: bool = Field(False, description="Say what would happen, and change nothing.")


class RetryRequest(Strict):
    """Body of ``POST swaps/{id}/retry``."""

    attempt: int | None = Field(
        None, ge=1, le=9999, description="Which retry; asking again with it changes nothing."
    )
    wait_s: float = Field(0, ge=0, le=86_400, description="Longest wait until it serves.")


class AdminApi(ScheduleApi, ABTestApi):
    """ASGI application for operators; the caller turns its errors into answers.

    Args:
        config: Holds the admin token.
        controller: ``SwapController`` or a proxy of it. A load takes minutes: the proxy's
            own time limit must be longer; every other call is limited here.
        learning: ``LearningActor`` or a proxy of it.
    """

    def __init__(self, config: ServerConfig, controller: Any, learning: Any) -> None:
        self._config = config
        self._controller = controller
        self._learning = learning
        routes: list[tuple[str, str, Handler]] = [
            ("GET", "status", self._status),
            ("GET", "models", self._models),
            ("GET", f"tasks/{NAME}", self._task),
            ("GET", f"tasks/{NAME}/generations", self._generations),
            ("GET", f"tasks/{NAME}/learnings", self._learnings),
            ("GET", "decisions", self._decisions),
            ("GET", f"explain/{NAME}", self._explain),
            ("POST", f"tasks/{NAME}/autoswap", self._autoswap),
            ("GET", "swaps", self._swaps),
            ("GET", f"swaps/{NAME}", self._swap_record),
            ("GET", f"models/{NAME}/probes", self._probes),
            ("POST", f"models/{NAME}/(load|unload|sleep|wake)", self._change_model),
            ("POST", f"tasks/{NAME}/swap", self._swap),
            ("POST", f"tasks/{NAME}/rollback", self._rollback),
            ("POST", f"swaps/{NAME}/(promote|abort|rollback|pause|resume)", self._signal),
            ("POST", f"swaps/{NAME}/retry", self._retry),
            *self._schedule_routes(),
            *self._ab_test_routes(),
        ]
        self._routes = [(method, re.compile(path), handler) for method, path, handler in routes]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request.

        Raises:
            HotswapError: What is wrong with it; nothing was sent yet.
        """
        authorize(scope, (self._config.admin_token,) if self._config.admin_token else ())
        path = scope["path"].removeprefix("/admin").strip("/")
        if path == "events":
            self._allow(scope, ["GET"])
            await self._events(scope, receive, send)
            return
        found = [
            (method, handler, match.groups())
            for method, pattern, handler in self._routes
            if (match := pattern.fullmatch(path))
        ]
        if not found:
            raise NotFound(f"no /admin/{path}; GET /admin/status is where to begin")
        self._allow(scope, [method for method, _, _ in found])
        method = scope["method"]
        handler, names = next((h, names) for m, h, names in found if m == method)
        body: dict[str, Any] = {}
        if method in ("POST", "PUT"):
            body = await read_json(receive, self._config.max_body_bytes, optional=True)
        try:
            answer = await handler(scope, body, *names)
        except TimeoutError:
            raise EngineUnavailable("the controller did not answer in time", 5.0) from None
        headers = [JSON]
        if isinstance(answer, dict) and "etag" in answer:  # the record of a swap or test
            headers.append((b"etag", b'"%s"' % answer["etag"].encode()))
        await send_bytes(send, 200, orjson.dumps(answer), headers)

    def _allow(self, scope: Scope, methods: list[str]) -> None:
        if scope["method"] not in methods:
            raise MethodNotAllowed(f"{scope['path']} takes {' or '.join(methods)} only")

    async def _status(self, scope: Scope, body: Any) -> Any:
        return await quick(self._controller.status())

    async def _models(self, scope: Scope, body: Any) -> Any:
        return {"models": (await quick(self._controller.status()))["models"]}

    async def _task(self, scope: Scope, body: Any, task: str) -> Any:
        status = await quick(self._controller.status())
        if task not in status["tasks"]:
            raise NotFound(unknown("task", task, status["tasks"]))
        of_task = {
            name: [one for one in status[name] if one["task"] == task]
            for name in ("open_swaps", "open_ab_tests")
        }
        return {"task": task, **status["tasks"][task], **of_task}

    async def _generations(self, scope: Scope, body: Any, task: str) -> Any:
        return {"task": task, "generations": await quick(self._controller.generations(task))}

    async def _learnings(self, scope: Scope, body: Any, task: str) -> Any:
        return await quick(self._learning.task_performance(task))

    async def _decisions(self, scope: Scope, body: Any) -> Any:
        query = query_of(scope)
        limit = _number(query, "limit", 50, most=10_000)
        return {"decisions": await quick(self._controller.decisions(query.get("task"), limit))}

    async def _explain(self, scope: Scope, body: Any, subject: str) -> Any:
        return await quick(self._controller.explain(subject))

    async def _autoswap(self, scope: Scope, body: Any, task: str) -> Any:
        mode = body.pop("mode", None)
        if body or not isinstance(mode, str):
            raise InvalidRequest('the body is {"mode": "off"}; or advise, on, config')
        return await quick(self._controller.set_autoswap(task, mode))

    async def _swaps(self, scope: Scope, body: Any) -> Any:
        query = query_of(scope)
        limit = _number(query, "limit", 50, most=10_000)
        return {"swaps": await quick(self._controller.swaps(query.get("task"), limit))}

    async def _swap_record(self, scope: Scope, body: Any, swap_id: str) -> Any:
        record = await quick(self._controller.wait(swap_id, 0))
        return {**record, "journal": await quick(self._controller.journal(swap_id))}

    async def _probes(self, scope: Scope, body: Any, model: str) -> Any:
        return await self._controller.probe(model)  # as long as swap.probe_timeout_s

    async def _change_model(self, scope: Scope, body: Any, model: str, action: str) -> Any:
        if action == "load" and body:
            return await self._controller.load(model, body)
        if body:
            raise InvalidRequest(f"{action} takes no body")
        if action in ("load", "wake"):
            return await self._controller.load(model)
        return await getattr(self._controller, action)(model)

    async def _swap(self, scope: Scope, body: Any, task: str) -> Any:
        request = _parsed(SwapRequest, scope, body)
        options = request.model_dump(include={"bake_s", "strategy", "compatibility", "canary"})
        options |= {"requested_by": "admin", **_condition(scope)}
        ask = partial(self._controller.swap, task, request.model, request.swap_id, **options)
        if request.dry_run:
            return await quick(ask(dry_run=True))
        record = await quick(ask())
        return await self._waited(record, request.wait_s, request.until)

    async def _rollback(self, scope: Scope, body: Any, task: str) -> Any:
        request = _parsed(BackRequest, scope, body)
        options = _condition(scope) | ({} if request.to is None else {"to": request.to})
        record = await quick(self._controller.rollback(task, request.swap_id, **options))
        return await self._waited(record, request.wait_s, "switched" if request.to else "end")

    async def _waited(self, record: Any, wait_s: float, until: str) -> Any:
        return await self._controller.wait(record["swap_id"], wait_s, until) if wait_s else record

    async def _signal(self, scope: Scope, body: Any, swap_id: str, event: str) -> Any:
        return await quick(self._controller.signal(swap_id, event, **_condition(scope)))

    async def _retry(self, scope: Scope, body: Any, swap_id: str) -> Any:
        request = _parsed(RetryRequest, scope, body)
        record = await quick(self._controller.retry(swap_id, request.attempt))
        return await self._waited(record, request.wait_s, "switched")

    async def _events(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Server-sent events from ``Last-Event-ID`` on, until the client leaves.

        The query may narrow them: ``kinds``, several with commas, and ``swap_id``.
        """
        query = query_of(scope)
        last = {"after_id": header(scope, b"last-event-id") or query.get("after_id", "")}
        after_id = _number(last, "after_id", 0, most=2**62)
        kinds = [kind for kind in query.get("kinds", "").split(",") if kind]
        swap_id = query.get("swap_id")
        await send({"type": "http.response.start", "status": 200, "headers": [*SSE]})
        gone = asyncio.ensure_future(_until_gone(receive))
        said_s = float("-inf")  # a first byte at once, so that the client sees it is connected
        try:
            while not gone.done():
                parts, pause_s = [], POLL_S
                try:
                    for event in await quick(self._controller.events(after_id)):
                        after_id, pause_s = event["id"], 0.0  # there may be another page
                        if is_wanted(event, kinds, swap_id):
                            parts.append(_frame(event))
                except (HotswapError, TimeoutError):
                    await asyncio.sleep(1)  # it is being restarted; the heartbeat goes on
                if not parts and time.monotonic() - said_s >= HEARTBEAT_S:
                    parts.append(b": still here\n\n")
                if parts:
                    said_s = time.monotonic()
                    body = b"".join(parts)
                    await send({"type": "http.response.body", "body": body, "more_body": True})
                await asyncio.wait({gone}, timeout=pause_s)
        finally:
            gone.cancel()
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _frame(event: dict[str, Any]) -> bytes:
    data = {"at_s": event["at_s"], **event["doc"]}
    return b"id: %d\nevent: %s\ndata: %s\n\n" % (
        event["id"],
        event["kind"].encode(),
        orjson.dumps(data),
    )


def _parsed(shape: type[Body], scope: Scope, body: dict[str, Any]) -> Body:
    """The body, with the swap id that may come as ``Idempotency-Key``."""
    key = header(scope, b"idempotency-key") if "swap_id" in shape.model_fields else None
    if key is not None and body.setdefault("swap_id", key) != key:
        raise InvalidRequest("swap_id and the Idempotency-Key header differ; send one of them")
    try:
        return shape.model_validate(body)
    except ValidationError as error:
        raise InvalidRequest(problems(error, shape)) from None


def _condition(scope: Scope) -> dict[str, str]:
    """The etag that the client saw, if it stated one."""
    if_match = header(scope, b"if-match")
    return {} if if_match is None else {"if_match": if_match}


def _number(query: dict[str, str], name: str, default: int, most: int) -> int:
    text = query.get(name) or str(default)
    if not (text.isascii() and text.isdigit() and int(text) <= most):
        raise InvalidRequest(f"{name} must be a whole number from 0 to {most}")
    return int(text)
