"""The data plane's ASGI application over models and feedback that a test sets."""

import asyncio
import json

import httpx

from hotswap_ray.actors.ingress.router import Router
from hotswap_ray.actors.learning.feedback import default_keys
from hotswap_ray.config.sections import ServerConfig
from hotswap_ray.core.errors import Conflict, EngineError, NotFound
from hotswap_ray.core.routing.table import Route, RouteTable
from hotswap_ray.core.routing.target import Target
from hotswap_ray.web.openai_api import OpenAIApi

A, B = Target("a", 7, 2), Target("b", 3, 2)
TABLE = RouteTable(
    1, "t", {"t": Route("a", A, B), "u": Route("b", B)}, {"a": A, "b": B, "cold": None}
)
CHAT = {"messages": [{"role": "user", "content": "hi"}]}
KEY = {"authorization": "Bearer secret"}
PATHS = ["/v1/chat/completions", "/v1/completions", "/v1/feedback"]


class Model:
    """A model with a set answer; it keeps the bodies it got."""

    def __init__(self, name):
        self.name = name
        self.bodies = []
        self.error = None
        self.dies_at = None
        self.stopped = False
        self.gates = {}
        """Frames by number that wait for an event."""

    async def generate(self, endpoint, body):
        self.bodies.append((endpoint, body))
        if self.error:
            raise self.error
        return b'{"model": "%s"}' % self.name.encode(), 3, 2, 64

    async def stream(self, endpoint, body):
        self.bodies.append((endpoint, body))
        try:
            for index in range(3):
                if index in self.gates:
                    await self.gates[index].wait()
                if index == self.dies_at or (self.error and not index):
                    raise self.error or EngineError("died")
                yield b'data: {"n": %d}\n\n' % index
            yield b"data: [DONE]\n\n"
            yield 3, 2, 64
        finally:
            self.stopped = True

    async def ping(self):
        return {}


class Desk:
    """Takes feedback as the learning actor does."""

    def __init__(self):
        self.known = {"r1": None}
        self.given = []
        self.error = None

    async def __call__(self, request_id, score, key, comment, source):
        if self.error:
            raise self.error
        key = key or default_keys(request_id, score)[0]
        if request_id not in self.known:
            raise NotFound(f"no outcome of request {request_id!r} is known")
        if self.known[request_id] not in (None, key):
            raise Conflict(f"request {request_id!r} was scored already")
        self.known[request_id] = key
        self.given.append((request_id, score, key, comment, source))


class ApiWorld:
    """The API with everything behind it that a test may set."""

    def __init__(self, **limits):
        config = self.config = ServerConfig(
            api_keys=("secret", "schlüssel"), max_body_bytes=2048, **limits
        )
        self.models = {"a": Model("a"), "b": Model("b")}
        self.router = Router(config, lambda target: self.models[target.model])
        self.desk = Desk()
        self.api = OpenAIApi(
            config, self.router, self.desk, self.admin, clock=lambda: 1_795_000_000.5
        )
        self.http = httpx.AsyncClient(
            transport=httpx.ASGITransport(self.api), base_url="http://test", headers=KEY
        )

    async def admin(self, scope, receive, send):
        await send({"type": "http.response.start", "status": 299, "headers": []})
        await send({"type": "http.response.body", "body": scope["path"].encode()})

    def behind_serve(self):
        """The API as it is where Serve adds x-request-id."""
        return OpenAIApi(self.config, self.router, self.desk, self.admin, behind_serve=True)

    def wire(self, **body):
        """A request as an ASGI server makes it, under way in a task of its own."""
        return Wire(self.api, {**CHAT, **body})

    async def chat(self, headers=None, **body):
        return await self.http.post("/v1/chat/completions", json={**CHAT, **body}, headers=headers)


class Wire:
    """One chat whose answer can be looked at while it goes on, and whose client can leave."""

    def __init__(self, api, body):
        self.sent = []
        self.broken = None
        self._body = [{"type": "http.request", "body": json.dumps(body).encode()}]
        scope = {
            "type": "http",
            "method": "POST",
            "path": "/v1/chat/completions",
            "headers": [(b"authorization", b"Bearer secret")],
        }
        self.task = asyncio.create_task(api(scope, self._receive, self._send))

    async def _receive(self):
        return self._body.pop()

    async def _send(self, message):
        if self.broken:
            raise self.broken
        self.sent.append(message)

    @property
    def status(self):
        return self.sent[0]["status"] if self.sent else None

    @property
    def headers(self):
        return {name.decode(): value.decode() for name, value in self.sent[0]["headers"]}

    @property
    def parts(self):
        """What was sent of the body."""
        return [message["body"] for message in self.sent[1:]]

    @property
    def comments(self):
        return sum(part.startswith(b":") for part in self.parts)

    @property
    def text(self):
        return b"".join(self.parts).decode()


def refused(response, status, code, *words):
    """The body of an error in OpenAI's shape."""
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert (response.status_code, error["code"]) == (status, code), response.text
    kind = "invalid_request_error" if status < 500 else "server_error"
    assert error["type"] == kind
    assert response.headers["content-type"] == "application/json"
    assert response.headers["x-request-id"] == response.headers["x-hotswap-request-id"]
    for word in words:
        assert word in error["message"]
    assert (response.headers.get("retry-after") is not None) == (status in (429, 503))
    return error
