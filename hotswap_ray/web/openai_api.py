"""The data plane over ASGI: OpenAI's endpoints, feedback and health.

Plain ASGI, because a framework costs more here than the whole of our own work.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from contextlib import aclosing, contextmanager
from typing import Any

import orjson

from hotswap_ray import __version__
from hotswap_ray.actors.ingress.call import Call
from hotswap_ray.actors.ingress.router import Router
from hotswap_ray.config.sections import ServerConfig
from hotswap_ray.core.errors import (
    EngineUnavailable,
    HotswapError,
    InvalidRequest,
    MethodNotAllowed,
    NotFound,
)
from hotswap_ray.core.outcome import Endpoint
from hotswap_ray.core.routing.conversation import names_of
from hotswap_ray.core.routing.table import AUTO, Assignment, RouteTable, unknown
from hotswap_ray.web import paths
from hotswap_ray.web.asgi import (
    JSON,
    App,
    Headers,
    Receive,
    Scope,
    Send,
    authorize,
    header,
    read_json,
    send_bytes,
    send_error,
    send_json,
    start,
)
from hotswap_ray.web.bodies import check_chat, check_completion, check_stream
from hotswap_ray.web.cors import Cors
from hotswap_ray.web.event_stream import EventStream
from hotswap_ray.web.model_list import model_rows
from hotswap_ray.web.request_id import Ids, id_headers
from hotswap_ray.web.trace_context import trace_headers

TEXT = (b"content-type", b"text/plain; charset=utf-8")
log = logging.getLogger("hotswap.http")


class OpenAIApi:
    """ASGI application of one ingress replica.

    Args:
        config: Limits and keys.
        router: The data path.
        feedback: Takes ``(request_id, score, idempotency_key, comment, source)``.
        admin: ASGI application for everything under ``/admin``.
        behind_serve: Serve adds ``x-request-id`` to the answer itself.
        clock: Unix seconds, for when models were listed first.
    """

    def __init__(
        self,
        config: ServerConfig,
        router: Router,
        feedback: Callable[[str, float, str | None, str | None, str | None], Awaitable[Any]],
        admin: App,
        behind_serve: bool = False,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._config = config
        self._router = router
        self._feedback = feedback
        self._admin = admin
        self._behind_serve = behind_serve
        self._created = int(clock())
        self._ids = Ids(behind_serve)
        self._cors = Cors(config.cors_origins)
        self._posts: dict[str, Callable[[Scope, Receive, Send, str], Awaitable[None]]] = {
            "/v1/chat/completions": self._chat,
            "/v1/completions": self._completions,
            "/v1/feedback": self._take_feedback,
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            return
        path, method = paths.plain(scope["path"]), scope["method"]
        is_admin = path == "/admin" or path.startswith("/admin/")
        request_id, label = self._ids.of(scope)
        started = False

        async def tracked(message: MutableMapping[str, Any]) -> None:
            nonlocal started
            if not started:
                headers: Headers = message["headers"]
                headers += id_headers(request_id, label, self._behind_serve)
                if not is_admin and method != "OPTIONS":
                    headers += self._cors.answer(scope, headers)
            elif method == "HEAD":
                message["body"] = b""
            started = True
            await send(message)

        try:
            post = self._posts.get(path)
            if is_admin:
                await self._admin(scope, receive, tracked)
            elif method == "OPTIONS":
                await self._options(scope, path, tracked)
            elif post is None:
                await self._get(scope, path, tracked)
            elif method == "POST":
                with self._turning_away():
                    authorize(scope, self._config.api_keys)
                await post(scope, receive, tracked, request_id)
            else:
                raise MethodNotAllowed(f"{path} takes POST, not {method}")
        except HotswapError as error:
            if not started:
                await send_error(tracked, error, _allow(path, error))
        except Exception as error:  # the HTTP border: recorded here, and the client is told
            log.exception("request %s failed (label %s)", request_id, label)
            if not started:
                text = f"internal error ({type(error).__name__}); see the log"
                await send_error(tracked, HotswapError(text))

    async def _options(self, scope: Scope, path: str, send: Send) -> None:
        """A browser's preflight has no token, and may be about a path that is not there."""
        headers = self._cors.preflight(scope)
        allow = paths.methods(path)
        if allow is None and not headers:
            raise NotFound(paths.missing(path))
        await send(start(204, [(b"allow", (allow or "OPTIONS").encode()), *headers]))
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _get(self, scope: Scope, path: str, send: Send) -> None:
        if paths.methods(path) is None:
            raise NotFound(paths.missing(path))
        if scope["method"] not in ("GET", "HEAD"):
            raise MethodNotAllowed(f"{path} takes GET, not {scope['method']}")
        if path in paths.HEALTH:
            await send_json(send, 200, {"status": "ok"})
        elif path == "/readyz":
            await self._ready(send)
        elif path == "/version":
            await send_json(send, 200, {"version": __version__})
        elif path == "/metrics":
            await send_bytes(send, 200, paths.METRICS.encode(), [TEXT])
        elif path == "/":
            facts = {"name": "hotswap_ray", "version": __version__}
            await send_json(send, 200, {**facts, "post": paths.POSTS, "get": paths.GETS})
        else:
            authorize(scope, self._config.api_keys)
            await self._models(send, path.removeprefix("/v1/models").removeprefix("/"))

    async def _ready(self, send: Send) -> None:
        """503 until every route has a model; a table without routes is not ready, but not there."""
        routes = self._router.table.routes
        waiting = [task for task, route in routes.items() if route.active is None]
        waiting = waiting if routes else ["routes"]
        more = [(b"retry-after", b"1")] if waiting else []
        body = orjson.dumps({"waiting_for": waiting})
        await send_bytes(send, 503 if waiting else 200, body, [JSON, *more])

    async def _models(self, send: Send, name: str) -> None:
        rows = model_rows(self._table(), self._created)
        if not name:
            await send_json(send, 200, {"object": "list", "data": rows})
            return
        found = {row["id"]: row for row in rows}
        if name not in found:
            raise NotFound(unknown("model", name, found))
        await send_json(send, 200, found[name])

    def _table(self) -> RouteTable:
        """The route table; before it has a route, no name is known and none is unknown."""
        if not self._router.table.routes:
            raise EngineUnavailable("starting: no task has a route yet", 2.0)
        return self._router.table

    @contextmanager
    def _turning_away(self) -> Iterator[None]:
        """Count what is refused before it is a call that the router can record."""
        try:
            yield
        except HotswapError as error:
            self._router.turn_away(error)
            raise

    async def _chat(self, scope: Scope, receive: Receive, send: Send, request_id: str) -> None:
        with self._turning_away():
            body = await read_json(receive, self._config.max_body_bytes)
            check_chat(body)
            call = self._call(scope, request_id, "chat/completions", body)
        await self._serve(call, send)

    async def _completions(
        self, scope: Scope, receive: Receive, send: Send, request_id: str
    ) -> None:
        with self._turning_away():
            body = await read_json(receive, self._config.max_body_bytes)
            check_completion(body)
            call = self._call(scope, request_id, "completions", body)
        await self._serve(call, send)

    def _call(
        self, scope: Scope, request_id: str, endpoint: Endpoint, body: dict[str, Any]
    ) -> Call:
        self._table()
        body = {key: value for key, value in body.items() if value is not None}  # null is absent
        metadata = body.pop("metadata", {})
        model = body.pop("model", AUTO)
        if not isinstance(metadata, dict) or not isinstance(model, str):
            raise InvalidRequest("model must be a string and metadata an object")
        task = metadata.get("task_type")
        if not isinstance(task, str | None):
            raise InvalidRequest("metadata.task_type must be a string")
        check_stream(body)
        order = self._config.conversation_keys
        return Call(
            request_id,
            endpoint,
            body,
            model,
            header(scope, b"x-hotswap-task"),
            task,
            names=names_of(order, lambda name: header(scope, name.encode()), body),
            trace=trace_headers(scope),
        )

    async def _serve(self, call: Call, send: Send) -> None:
        if call.body.get("stream"):
            await self._stream(call, send)
            return
        assignment, answer = await self._router.generate(call)
        await send_bytes(send, 200, answer, [JSON, *answer_headers(assignment)])

    async def _stream(self, call: Call, send: Send) -> None:
        """Answer in events; the status waits for the first one, or for the first comment."""
        async with EventStream(send, self._config.stream_comment_s) as stream:
            try:
                opened = await self._router.open(call)
                async with aclosing(opened.rest) as rest:
                    await stream.begin(answer_headers(opened.assignment))
                    await stream.frame(opened.first)
                    async for item in rest:
                        if isinstance(item, bytes):
                            await stream.frame(item)
            except HotswapError as error:
                if not stream.begun:
                    raise
                await stream.end(error)
            else:
                await stream.end()

    async def _take_feedback(
        self, scope: Scope, receive: Receive, send: Send, request_id: str
    ) -> None:
        body = await read_json(receive, self._config.max_body_bytes)
        subject, score = body.get("request_id"), body.get("score")
        if score is None and isinstance(body.get("success"), bool):
            score = float(body["success"])
        if not isinstance(subject, str):
            raise InvalidRequest("request_id must be the x-request-id of an answer")
        # `not <=` also refuses NaN
        if isinstance(score, bool) or not isinstance(score, int | float) or not 0 <= score <= 1:
            raise InvalidRequest("give score, a number from 0 to 1, or success, true or false")
        comment = body.get("comment")
        if not isinstance(comment, str | None):
            raise InvalidRequest("comment must be a string")
        key = header(scope, b"idempotency-key")
        source = caller(scope) if self._config.api_keys else None
        told = await self._feedback(subject, float(score), key, comment, source)
        answer = {"request_id": subject, "score": score}
        if isinstance(told, dict) and told.get("pending"):  # its answer is still to be recorded
            await send_json(send, 202, {**answer, "pending": True})
        else:
            await send_json(send, 200, answer)


def caller(scope: Scope) -> str:
    """A name for the holder of the bearer token, from which nobody can learn the token."""
    token = header(scope, b"authorization") or ""
    return hashlib.blake2b(token.encode("latin-1"), digest_size=6).hexdigest()


def answer_headers(assignment: Assignment) -> Headers:
    """Headers that say who answered and why."""
    return [
        (b"x-hotswap-model", assignment.target.model.encode()),
        (b"x-hotswap-generation", str(assignment.target.generation).encode()),
        *([(b"x-hotswap-task", assignment.task.encode())] if assignment.task else []),
        (b"x-hotswap-decision", assignment.decision.encode()),
        *((b"x-hotswap-left-out", name.encode()) for name in assignment.left_out),
    ]


def _allow(path: str, error: HotswapError) -> Headers:
    allow = paths.methods(path) if isinstance(error, MethodNotAllowed) else None
    return [(b"allow", allow.encode())] if allow else []
