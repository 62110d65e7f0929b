"""The data plane over ASGI: OpenAI's endpoints, feedback and health.

Plain ASGI, because a framework costs more here than the whole of our own work.
"""

from __future__ import annotations

import hashlib
import logging
import uuid
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from hotswap_ray.actors.ingress.call import Call
from hotswap_ray.actors.ingress.router import Router
from hotswap_ray.config.sections import ServerConfig
from hotswap_ray.core.errors import HotswapError, InvalidRequest, MethodNotAllowed, NotFound
from hotswap_ray.core.outcome import Endpoint
from hotswap_ray.core.routing.conversation import names_of
from hotswap_ray.core.routing.table import AUTO, Assignment, unknown
from hotswap_ray.web.asgi import (
    JSON,
    App,
    Headers,
    Receive,
    Scope,
    Send,
    authorize,
    error_body,
    header,
    read_json,
    send_bytes,
    send_error,
    send_json,
    start,
)

# A tuple: Serve's own middleware appends to the list of headers that it is given.
SSE = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
)
log = logging.getLogger("hotswap.http")


class OpenAIApi:
    """ASGI application of one ingress replica.

    Args:
        config: Limits and keys.
        router: The data path.
        feedback: Takes ``(request_id, score, idempotency_key, comment, source)``.
        admin: ASGI application for everything under ``/admin``.
        behind_serve: Serve numbers requests and adds ``x-request-id`` to the answer itself.
    """

    def __init__(
        self,
        config: ServerConfig,
        router: Router,
        feedback: Callable[[str, float, str | None, str | None, str | None], Awaitable[Any]],
        admin: App,
        behind_serve: bool = False,
    ) -> None:
        self._config = config
        self._router = router
        self._feedback = feedback
        self._admin = admin
        self._behind_serve = behind_serve
        self._posts: dict[str, Callable[[Scope, Receive, Send, str], Awaitable[None]]] = {
            "/v1/chat/completions": self._chat,
            "/v1/completions": self._completions,
            "/v1/feedback": self._take_feedback,
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            return
        path: str = scope["path"]
        request_id = header(scope, b"x-request-id") or uuid.uuid4().hex
        started = False

        async def tracked(message: MutableMapping[str, Any]) -> None:
            nonlocal started
            if not started and not self._behind_serve:
                message["headers"].append((b"x-request-id", request_id.encode("latin-1")))
            started = True
            await send(message)

        try:
            if not 0 < len(request_id) <= 128 or not request_id.isprintable():
                request_id = uuid.uuid4().hex
                raise InvalidRequest("x-request-id must be 1 to 128 printable characters")
            post = self._posts.get(path)
            if path == "/admin" or path.startswith("/admin/"):
                await self._admin(scope, receive, tracked)
            elif post is None:
                await self._get(scope, path, tracked)
            elif scope["method"] == "POST":
                authorize(scope, self._config.api_keys)
                await post(scope, receive, tracked, request_id)
            else:
                raise MethodNotAllowed(f"{path} takes POST, not {scope['method']}")
        except HotswapError as error:
            if not started:
                await send_error(tracked, error)
        except Exception as error:  # the HTTP border: recorded here, and the client is told
            log.exception("request %s failed", request_id)
            if not started:
                text = f"internal error ({type(error).__name__}); see the log"
                await send_error(tracked, HotswapError(text))

    async def _get(self, scope: Scope, path: str, send: Send) -> None:
        table = self._router.table
        takes_get = path in ("/healthz", "/readyz") or path.startswith("/v1/models")
        if takes_get and scope["method"] not in ("GET", "HEAD"):
            raise MethodNotAllowed(f"{path} takes GET, not {scope['method']}")
        if path == "/healthz":
            await send_json(send, 200, {"status": "ok"})
        elif path == "/readyz":
            waiting = [task for task, route in table.routes.items() if route.active is None]
            await send_json(send, 503 if waiting else 200, {"waiting_for": waiting})
        elif path == "/v1/models" or path.startswith("/v1/models/"):
            authorize(scope, self._config.api_keys)
            names = [AUTO, *(f"auto:{task}" for task in table.routes), *table.models]
            rows = [
                {"id": name, "object": "model", "created": 0, "owned_by": "hotswap_ray"}
                for name in names
            ]
            name = path.removeprefix("/v1/models").removeprefix("/")
            if not name:
                await send_json(send, 200, {"object": "list", "data": rows})
            elif name in names:
                await send_json(send, 200, rows[names.index(name)])
            else:
                raise NotFound(unknown("model", name, names))
        else:
            raise NotFound(f"no {path}; see GET /v1/models")

    async def _chat(self, scope: Scope, receive: Receive, send: Send, request_id: str) -> None:
        body = await read_json(receive, self._config.max_body_bytes)
        messages = body.get("messages")
        if not isinstance(messages, list) or not messages:
            raise InvalidRequest("messages must be a list with at least one message")
        if not all(isinstance(message, dict) and "role" in message for message in messages):
            raise InvalidRequest("each message must be an object with a role")
        await self._serve(scope, send, request_id, "chat/completions", body)

    async def _completions(
        self, scope: Scope, receive: Receive, send: Send, request_id: str
    ) -> None:
        body = await read_json(receive, self._config.max_body_bytes)
        if not isinstance(body.get("prompt"), (str, list)):
            raise InvalidRequest("prompt must be a string or a list")
        await self._serve(scope, send, request_id, "completions", body)

    async def _serve(
        self,
        scope: Scope,
        send: Send,
        request_id: str,
        endpoint: Endpoint,
        body: dict[str, Any],
    ) -> None:
        metadata = body.pop("metadata", None)
        metadata = {} if metadata is None else metadata
        model = body.pop("model", AUTO)
        if not isinstance(metadata, dict) or not isinstance(model, str):
            raise InvalidRequest("model must be a string and metadata an object")
        task = metadata.get("task_type")
        if not isinstance(task, str | None):
            raise InvalidRequest("metadata.task_type must be a string")
        stream, options = body.get("stream"), body.get("stream_options")
        if not isinstance(stream, bool | None) or not isinstance(options, dict | None):
            raise InvalidRequest("stream must be true or false and stream_options an object")
        call = Call(
            request_id,
            endpoint,
            body,
            model,
            header(scope, b"x-hotswap-task"),
            task,
            names=names_of(
                self._config.conversation_keys, lambda name: header(scope, name.encode()), body
            ),
        )
        if not stream:
            assignment, answer = await self._router.generate(call)
            await send_bytes(send, 200, answer, [JSON, *answer_headers(assignment)])
            return
        opened = await self._router.open(call)
        try:
            await send(start(200, [*SSE, *answer_headers(opened.assignment)]))
            await send(_part(opened.first))
            try:
                async for item in opened.rest:
                    if isinstance(item, bytes):
                        await send(_part(item))
            except HotswapError as error:
                # The status was sent already; the missing [DONE] says that the answer is cut off.
                await send(_part(b"data: " + error_body(error) + b"\n\n"))
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            await opened.rest.aclose()

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
        await self._feedback(subject, float(score), key, comment, source)
        await send_json(send, 200, {"request_id": subject, "score": score})


def caller(scope: Scope) -> str:
    """A name for the holder of the bearer token, from which nobody can learn the token."""
    token = header(scope, b"authorization") or ""
    return hashlib.blake2b(token.encode("latin-1"), digest_size=6).hexdigest()


def answer_headers(assignment: Assignment) -> Headers:
    """Headers that say who answered and why."""
    return [
        (b"x-hotswap-model", assignment.target.model.encode()),
        (b"x-hotswap-generation", str(assignment.target.generation).encode()),
        (b"x-hotswap-task", assignment.task.encode()),
        (b"x-hotswap-decision", assignment.decision.encode()),
    ]


def _part(body: Any) -> dict[str, Any]:
    return {"type": "http.response.body", "body": body, "more_body": True}
