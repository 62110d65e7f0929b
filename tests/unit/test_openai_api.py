"""The data plane over ASGI, called without a server; the router is real, its models are not."""

import asyncio
import json

import httpx
import pytest

from hotswap_ray.actors.router import Router
from hotswap_ray.config import ServerConfig
from hotswap_ray.core.errors import (
    Conflict,
    EngineError,
    EngineUnavailable,
    InvalidRequest,
    NotFound,
    Overloaded,
    StoreError,
)
from hotswap_ray.core.routes import Route, RouteTable, Target
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

    async def generate(self, endpoint, body):
        self.bodies.append((endpoint, body))
        if self.error:
            raise self.error
        return b'{"model": "%s"}' % self.name.encode(), 3, 2, 64

    async def stream(self, endpoint, body):
        self.bodies.append((endpoint, body))
        try:
            for index in range(3):
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

    async def __call__(self, request_id, score, key, comment):
        if self.error:
            raise self.error
        if request_id not in self.known:
            raise NotFound(f"no outcome of request {request_id!r} is known")
        if self.known[request_id] not in (None, key):
            raise Conflict(f"request {request_id!r} was scored already")
        self.known[request_id] = key
        self.given.append((request_id, score, key, comment))


class World:
    """The API with everything behind it that a test may set."""

    def __init__(self, **limits):
        config = ServerConfig(api_keys=("secret", "schlüssel"), max_body_bytes=2048, **limits)
        self.models = {"a": Model("a"), "b": Model("b")}
        self.router = Router(config, lambda target: self.models[target.model])
        self.desk = Desk()
        self.api = OpenAIApi(config, self.router, self.desk, self.admin)
        self.http = httpx.AsyncClient(
            transport=httpx.ASGITransport(self.api), base_url="http://test", headers=KEY
        )

    async def admin(self, scope, receive, send):
        await send({"type": "http.response.start", "status": 299, "headers": []})
        await send({"type": "http.response.body", "body": scope["path"].encode()})

    async def chat(self, headers=None, **body):
        return await self.http.post("/v1/chat/completions", json={**CHAT, **body}, headers=headers)


@pytest.fixture
async def world():
    made = World()
    await made.router.apply(TABLE)
    yield made
    await made.http.aclose()


def refused(response, status, code, *words):
    """The body of an error in OpenAI's shape."""
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert (response.status_code, error["code"]) == (status, code), response.text
    kind = "invalid_request_error" if status < 500 else "server_error"
    assert error["type"] == kind
    assert response.headers["content-type"] == "application/json"
    assert response.headers["x-request-id"]
    for word in words:
        assert word in error["message"]
    assert (response.headers.get("retry-after") is not None) == (status in (429, 503))
    return error


async def test_a_whole_answer_says_who_gave_it_and_why(world):
    response = await world.chat({"x-request-id": "mine", "x-hotswap-task": "u"})
    assert response.status_code == 200
    assert response.json() == {"model": "b"}
    named = {name: value for name, value in response.headers.items() if name.startswith("x-")}
    assert named == {
        "x-hotswap-model": "b",
        "x-hotswap-generation": "3",
        "x-hotswap-task": "u",
        "x-hotswap-decision": "active",
        "x-request-id": "mine",
    }
    assert response.headers["content-type"] == "application/json"
    assert int(response.headers["content-length"]) == len(response.content)


async def test_a_request_without_an_id_gets_one_of_its_own(world):
    first, second = await world.chat(), await world.chat()
    assert len(first.headers["x-request-id"]) == 32
    assert first.headers["x-request-id"] != second.headers["x-request-id"]
    assert [o.request_id for o in world.router.outcomes] == [
        first.headers["x-request-id"],
        second.headers["x-request-id"],
    ]


async def test_a_stream_is_server_sent_events_that_end_with_done_and_has_the_same_headers(world):
    response = await world.chat({"x-request-id": "mine"}, stream=True, model="auto:u")
    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.headers["cache-control"] == "no-cache"
    assert response.headers["x-hotswap-model"] == "b"
    assert response.headers["x-hotswap-generation"] == "3"
    assert response.headers["x-hotswap-task"] == "u"
    assert response.headers["x-hotswap-decision"] == "active"
    assert response.headers["x-request-id"] == "mine"
    events = response.text.split("\n\n")
    assert events[:3] == [f'data: {{"n": {number}}}' for number in range(3)]
    assert events[3:] == ["data: [DONE]", ""]


async def test_a_stream_that_dies_carries_an_error_event_and_no_done(world):
    world.models["a"].dies_at = 2
    response = await world.chat(stream=True)
    assert response.status_code == 200
    *events, last = response.text.strip().split("\n\n")
    assert events == ['data: {"n": 0}', 'data: {"n": 1}']
    error = json.loads(last.removeprefix("data: "))["error"]
    assert (error["message"], error["type"], error["code"]) == (
        "died",
        "server_error",
        "engine_error",
    )
    assert "[DONE]" not in response.text
    assert not world.models["b"].bodies


async def test_a_stream_whose_model_fails_before_the_first_byte_comes_from_the_fallback(world):
    world.models["a"].error = EngineError("broken")
    response = await world.chat(stream=True)
    assert response.headers["x-hotswap-decision"] == "fallback"
    assert response.headers["x-hotswap-model"] == "b"
    assert response.text.endswith("data: [DONE]\n\n")


async def test_a_stream_that_never_began_gets_a_status_and_not_an_event(world):
    world.models["b"].error = EngineUnavailable("gone", 2.4)
    response = await world.chat(stream=True, model="b")
    refused(response, 503, "engine_unavailable", "gone")
    assert response.headers["retry-after"] == "3"


async def test_a_client_that_leaves_in_mid_stream_stops_the_model(world):
    body = [{"type": "http.request", "body": json.dumps({**CHAT, "stream": True}).encode()}]

    async def receive():
        return body.pop()

    async def send(message):
        if message.get("body"):
            raise OSError("the connection is closed")

    scope = {
        "type": "http",
        "method": "POST",
        "path": "/v1/chat/completions",
        "headers": [(b"authorization", b"Bearer secret")],
    }
    await world.api(scope, receive, send)
    assert world.models["a"].stopped
    assert not world.router.in_flight
    assert not world.router.outcomes


async def test_what_is_ours_does_not_reach_the_model_and_all_else_does(world):
    await world.chat(model="auto:u", metadata={"task_type": "t", "x": "y"}, temperature=0.5)
    assert world.models["a"].bodies == [("chat/completions", {**CHAT, "temperature": 0.5})]
    await world.http.post("/v1/completions", json={"prompt": "hi", "seed": 1})
    assert world.models["a"].bodies[1] == ("completions", {"prompt": "hi", "seed": 1})


@pytest.mark.parametrize(
    ("headers", "body", "task"),
    [
        ({"x-hotswap-task": "u"}, {"model": "auto:t", "metadata": {"task_type": "t"}}, "u"),
        ({}, {"model": "auto:t", "metadata": {"task_type": "u"}}, "u"),
        ({}, {"model": "auto:u"}, "u"),
        ({}, {"model": "auto"}, "t"),
        ({}, {}, "t"),
        ({}, {"metadata": None}, "t"),
    ],
)
async def test_the_task_is_taken_from_header_metadata_name_or_default(world, headers, body, task):
    response = await world.chat(headers, **body)
    assert response.headers["x-hotswap-task"] == task


async def test_a_model_id_pins(world):
    response = await world.chat(model="b")
    assert response.headers["x-hotswap-decision"] == "pinned"
    assert response.headers["x-hotswap-task"] == "t"


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b'{"score": NaN}', b"[1]", b'"x"', b"null"])
async def test_a_body_that_is_not_a_json_object_is_refused(world, path, body):
    refused(await world.http.post(path, content=body), 400, "invalid_request", "JSON")


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"messages": []},
        {"messages": "hi"},
        {"messages": ["hi"]},
        {"messages": [{"content": "hi"}]},
        {**CHAT, "model": 5},
        {**CHAT, "model": None},
        {**CHAT, "metadata": "t"},
        {**CHAT, "metadata": []},
        {**CHAT, "metadata": {"task_type": 5}},
        {**CHAT, "metadata": {"task_type": ["t"]}},
        {**CHAT, "stream": "yes"},
        {**CHAT, "stream": True, "stream_options": "usage"},
    ],
)
async def test_a_chat_with_wrong_types_is_refused_before_any_model_sees_it(world, body):
    response = await world.http.post("/v1/chat/completions", json=body)
    refused(response, 400, "invalid_request")
    assert not any(model.bodies for model in world.models.values())
    assert not world.router.outcomes


@pytest.mark.parametrize("body", [{}, {"prompt": None}, {"prompt": 5}, {"prompt": {"a": 1}}])
async def test_a_completion_without_a_prompt_is_refused(world, body):
    refused(await world.http.post("/v1/completions", json=body), 400, "invalid_request", "prompt")


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("chunked", [True, False])
async def test_a_body_over_the_limit_is_refused_also_in_chunks_and_is_not_read_on(
    world, path, chunked
):
    sent = []

    async def chunks():
        for number in range(100):
            sent.append(number)
            yield b"x" * 1024

    content = chunks() if chunked else b"x" * 4096
    response = await world.http.post(path, content=content)
    refused(response, 413, "request_too_large", "2048", "max_body_bytes")
    assert len(sent) < 10


async def test_a_body_of_exactly_the_limit_is_taken(world):
    text = json.dumps({"prompt": ""})
    body = json.dumps({"prompt": "x" * (2048 - len(text))})
    assert (await world.http.post("/v1/completions", content=body)).status_code == 200


@pytest.mark.parametrize(
    "header", [None, "", "Bearer", "Bearer wrong", "Bearer secret2", "Basic secret", "Bearer \xfc"]
)
@pytest.mark.parametrize("path", [*PATHS, "/v1/models", "/v1/models/a"])
async def test_a_missing_or_wrong_token_is_refused_on_every_path_of_v1(world, path, header):
    headers = {} if header is None else {"authorization": header.encode("latin-1")}
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(world.api), base_url="http://test", headers=headers
    ) as http:
        ask = http.post(path, json=CHAT) if path in PATHS else http.get(path)
        refused(await ask, 401, "unauthorized", "token")


@pytest.mark.parametrize("key", ["secret", "schlüssel"])
async def test_each_of_the_keys_is_taken(world, key):
    response = await world.chat({"authorization": f"Bearer {key}".encode()})
    assert response.status_code == 200


async def test_an_unknown_model_or_task_is_refused_with_a_suggestion(world):
    refused(await world.chat(model="colt"), 404, "not_found", "colt", "did you mean 'cold'")
    refused(await world.chat({"x-hotswap-task": "tt"}), 404, "not_found", "did you mean 't'")
    refused(await world.chat(model="auto:tu"), 404, "not_found", "unknown task 'tu'")
    refused(await world.http.get("/v1/models/colt"), 404, "not_found", "did you mean 'cold'")


async def test_a_model_that_is_not_loaded_is_unavailable_and_says_what_loads_it(world):
    refused(await world.chat(model="cold"), 503, "engine_unavailable", "hotswap models load cold")


async def test_a_full_queue_is_429_with_the_time_to_come_back(world):
    world.models["a"].error = Overloaded("queue is full", 1.2)
    response = await world.chat()
    refused(response, 429, "overloaded", "queue is full")
    assert response.headers["retry-after"] == "2"


async def test_a_prompt_over_the_context_is_400_in_the_words_of_the_engine(world):
    world.models["a"].error = InvalidRequest("the prompt has 900 tokens, the context is 512")
    refused(await world.chat(), 400, "invalid_request", "900", "512")


async def test_a_model_that_fails_with_its_fallback_is_500_and_a_surprise_is_not_shown(world):
    world.models["a"].error = world.models["b"].error = EngineError("broken")
    refused(await world.chat(), 500, "engine_error", "broken")

    world.desk.error = RuntimeError("password in here")
    response = await world.http.post("/v1/feedback", json={"request_id": "r1", "score": 1})
    error = refused(response, 500, "internal_error", "RuntimeError")
    assert "password" not in error["message"]


@pytest.mark.parametrize("bad", ["x" * 129, "tab\there"])
async def test_a_bad_request_id_is_refused_and_not_echoed(world, bad):
    response = await world.chat({"x-request-id": bad})
    refused(response, 400, "invalid_request", "x-request-id")
    assert response.headers["x-request-id"] != bad


async def test_unknown_paths_are_404_and_wrong_methods_405(world):
    refused(await world.http.get("/v1/embeddings"), 404, "not_found", "/v1/embeddings")
    refused(await world.http.get("/"), 404, "not_found")
    for path in PATHS:
        refused(await world.http.get(path), 405, "method_not_allowed", "POST")
    for path in ("/v1/models", "/healthz", "/readyz"):
        refused(await world.http.post(path), 405, "method_not_allowed", "GET")


async def test_models_lists_auto_each_task_and_each_model(world):
    body = (await world.http.get("/v1/models")).json()
    assert body["object"] == "list"
    assert [row["id"] for row in body["data"]] == ["auto", "auto:t", "auto:u", "a", "b", "cold"]
    one = (await world.http.get("/v1/models/auto:u")).json()
    assert one in body["data"]
    assert set(one) == {"id", "object", "created", "owned_by"}


async def test_health_needs_no_token_and_ready_names_the_tasks_without_a_model(world):
    transport = httpx.ASGITransport(world.api)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
        assert (await http.get("/healthz")).status_code == 200
        assert (await http.get("/readyz")).status_code == 200
        await world.router.apply(RouteTable(2, "t", {"t": Route("a")}, {"a": None}))
        response = await http.get("/readyz")
    assert (response.status_code, response.json()) == (503, {"waiting_for": ["t"]})


async def test_everything_below_admin_goes_there_and_nothing_that_only_begins_so(world):
    assert (await world.http.get("/admin/status")).text == "/admin/status"
    refused(await world.http.get("/administrator"), 404, "not_found")


@pytest.mark.parametrize(
    ("body", "score"),
    [
        ({"score": 0.5}, 0.5),
        ({"score": 1}, 1.0),
        ({"score": 0}, 0.0),
        ({"success": True}, 1.0),
        ({"success": False}, 0.0),
        ({"score": 0.25, "success": True}, 0.25),
    ],
)
async def test_feedback_is_a_score_or_a_success(world, body, score):
    body = {"request_id": "r1", "comment": "fine", **body}
    response = await world.http.post("/v1/feedback", json=body, headers={"idempotency-key": "k"})
    assert (response.status_code, response.json()) == (200, {"request_id": "r1", "score": score})
    assert world.desk.given == [("r1", score, "k", "fine")]


@pytest.mark.parametrize(
    "body",
    [
        '{"request_id": "r1"}',
        '{"score": 1}',
        '{"request_id": 5, "score": 1}',
        '{"request_id": "r1", "score": 1.01}',
        '{"request_id": "r1", "score": -0.01}',
        '{"request_id": "r1", "score": 1e999}',
        '{"request_id": "r1", "score": NaN}',
        '{"request_id": "r1", "score": "1"}',
        '{"request_id": "r1", "score": true}',
        '{"request_id": "r1", "success": 1}',
        '{"request_id": "r1", "score": 1, "comment": 5}',
    ],
)
async def test_feedback_out_of_range_or_of_another_type_is_refused(world, body):
    refused(await world.http.post("/v1/feedback", content=body), 400, "invalid_request")
    assert not world.desk.given


async def test_feedback_for_an_unknown_request_is_404_and_a_second_score_409(world):
    async def give(subject, score, **headers):
        body = {"request_id": subject, "score": score}
        return await world.http.post("/v1/feedback", json=body, headers=headers)

    refused(await give("r2", 1), 404, "not_found", "r2")
    assert (await give("r1", 1)).status_code == 200
    assert (await give("r1", 1)).status_code == 200
    refused(await give("r1", 0), 409, "conflict", "scored already")
    refused(await give("r1", 1, **{"idempotency-key": "other"}), 409, "conflict")


async def test_feedback_while_the_store_refuses_is_503_so_that_the_client_keeps_it(world):
    world.desk.error = StoreError("the disk is full", 1.0)
    response = await world.http.post("/v1/feedback", json={"request_id": "r1", "score": 1})
    refused(response, 503, "store_error", "disk")


async def test_a_full_ingress_refuses_at_once_and_never_hangs():
    world = World(max_in_flight=1)
    await world.router.apply(TABLE)
    entered, gate = asyncio.Event(), asyncio.Event()

    async def slow(endpoint, body):
        entered.set()
        await gate.wait()
        return b"{}", 0, 0, 0

    world.models["a"].generate = slow
    first = asyncio.create_task(world.chat())
    await entered.wait()
    refused(await world.chat(), 429, "overloaded")
    gate.set()
    assert (await first).status_code == 200
    await world.http.aclose()
