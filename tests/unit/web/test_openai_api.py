"""The data plane over ASGI, called without a server; the router is real, its models are not."""

import asyncio
import json

import httpx
import pytest

from hotswap_ray.core.errors import EngineError, EngineUnavailable
from hotswap_ray.core.routing.table import Route, RouteTable
from hotswap_ray.core.routing.target import Target
from tests.worlds.api import CHAT, TABLE, ApiWorld, refused
from tests.worlds.until import until


@pytest.fixture
async def world():
    made = ApiWorld()
    await made.router.apply(TABLE)
    yield made
    await made.http.aclose()


async def test_a_whole_answer_says_who_gave_it_and_why(world):
    response = await world.chat({"x-hotswap-task": "u"})
    assert response.status_code == 200
    (outcome,) = world.router.recorder.outcomes
    assert response.json() == {"model": "b"}
    named = {name: value for name, value in response.headers.items() if name.startswith("x-")}
    assert named == {
        "x-hotswap-model": "b",
        "x-hotswap-generation": "3",
        "x-hotswap-task": "u",
        "x-hotswap-decision": "active",
        "x-hotswap-request-id": outcome.request_id,
        "x-request-id": outcome.request_id,
    }
    assert response.headers["content-type"] == "application/json"
    assert int(response.headers["content-length"]) == len(response.content)


@pytest.mark.parametrize("sent", [{}, {"x-request-id": "mine"}])
async def test_every_request_has_an_id_of_its_own(world, sent):
    first, second = await world.chat(sent), await world.chat(sent)
    assert len(first.headers["x-request-id"]) == 32
    assert first.headers["x-request-id"] != second.headers["x-request-id"]
    assert [o.request_id for o in world.router.recorder.outcomes] == [
        first.headers["x-request-id"],
        second.headers["x-request-id"],
    ]


async def test_a_stream_is_server_sent_events_that_end_with_done_and_has_the_same_headers(world):
    response = await world.chat({"x-request-id": "mine"}, stream=True, model="auto:u")
    (outcome,) = world.router.recorder.outcomes
    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.headers["cache-control"] == "no-cache"
    assert response.headers["x-hotswap-model"] == "b"
    assert response.headers["x-hotswap-generation"] == "3"
    assert response.headers["x-hotswap-task"] == "u"
    assert response.headers["x-hotswap-decision"] == "active"
    assert response.headers["x-request-id"] == outcome.request_id
    assert response.headers["x-hotswap-label"] == "mine"
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
    gate = world.models["a"].gates[1] = asyncio.Event()
    wire = world.wire(stream=True)
    await until(lambda: wire.parts)
    wire.broken = OSError("the connection is closed")
    gate.set()
    await wire.task
    assert world.models["a"].stopped
    assert not world.router.in_flight
    assert [o.end for o in world.router.recorder.outcomes] == ["cancelled"]


async def test_what_is_ours_does_not_reach_the_model_and_all_else_does(world):
    await world.chat(model="auto:u", metadata={"task_type": "t", "x": "y"}, temperature=0.5)
    assert world.models["a"].bodies == [("chat/completions", {**CHAT, "temperature": 0.5})]
    await world.http.post("/v1/completions", json={"prompt": "hi", "seed": 1})
    assert world.models["a"].bodies[1] == ("completions", {"prompt": "hi", "seed": 1})


async def test_a_null_is_absent_and_no_engine_sees_it(world):
    nulls = dict.fromkeys(
        ("stream", "stream_options", "metadata", "model", "max_tokens", "tools", "stop", "user")
    )
    assert (await world.chat(**nulls, temperature=0)).status_code == 200
    body = {**nulls, "prompt": "hi", "echo": False}
    assert (await world.http.post("/v1/completions", json=body)).status_code == 200
    assert world.models["a"].bodies == [
        ("chat/completions", {**CHAT, "temperature": 0}),
        ("completions", {"prompt": "hi", "echo": False}),
    ]


@pytest.mark.parametrize(
    ("headers", "body", "task"),
    [
        ({"x-hotswap-task": "u"}, {"model": "auto:t", "metadata": {"task_type": "t"}}, "u"),
        ({}, {"model": "auto:t", "metadata": {"task_type": "u"}}, "u"),
        ({}, {"model": "auto:u"}, "u"),
        ({}, {"model": "auto"}, "t"),
        ({}, {}, "t"),
        ({}, {"metadata": None, "model": None}, "t"),
    ],
)
async def test_the_task_is_taken_from_header_metadata_name_or_default(world, headers, body, task):
    response = await world.chat(headers, **body)
    assert response.headers["x-hotswap-task"] == task


async def test_a_model_id_pins(world):
    response = await world.chat(model="b")
    assert response.headers["x-hotswap-decision"] == "pinned"
    assert "x-hotswap-task" not in response.headers  # nobody has named one
    response = await world.chat(model="b", headers={"x-hotswap-task": "u"})
    assert response.headers["x-hotswap-task"] == "u"


async def test_models_lists_auto_each_task_and_each_model(world):
    body = (await world.http.get("/v1/models")).json()
    assert body["object"] == "list"
    assert [row["id"] for row in body["data"]] == ["auto", "auto:t", "auto:u", "a", "b", "cold"]
    one = (await world.http.get("/v1/models/auto:u")).json()
    assert one in body["data"]
    assert {"id", "object", "created", "owned_by"} <= set(one)


async def test_models_says_what_is_a_task_what_is_loaded_and_how_much_it_reads():
    world = ApiWorld()
    wide = Target("a", 7, 2, 4096)
    models = {"a": wide, "b": Target("b", 3, 2), "cold": None}
    routes = {"t": Route("a", wide), "u": Route("cold", None, models["b"]), "v": Route("cold")}
    await world.router.apply(RouteTable(1, "t", routes, models))
    rows = {row["id"]: row for row in (await world.http.get("/v1/models")).json()["data"]}
    shared = {"object": "model", "created": 1_795_000_000, "owned_by": "hotswap_ray"}
    sized = {"context_length": 4096, "max_model_len": 4096}
    loaded, unloaded = {**shared, "state": "loaded"}, {**shared, "state": "unloaded"}
    task, model = {"kind": "task", "model": "a"}, {"kind": "model"}
    assert rows == {
        "auto": {"id": "auto", **task, **loaded, **sized},
        "auto:t": {"id": "auto:t", **task, **loaded, **sized},
        "auto:u": {"id": "auto:u", **task, "model": "cold", **loaded},  # by its fallback
        "auto:v": {"id": "auto:v", **task, "model": "cold", **unloaded},
        "a": {"id": "a", **model, **loaded, **sized},
        "b": {"id": "b", **model, **loaded},
        "cold": {"id": "cold", **model, **unloaded},
    }
    await world.http.aclose()


async def test_health_needs_no_token_and_ready_names_the_tasks_without_a_model(world):
    transport = httpx.ASGITransport(world.api)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
        assert (await http.get("/healthz")).status_code == 200
        assert (await http.get("/readyz")).status_code == 200
        await world.router.apply(RouteTable(2, "t", {"t": Route("a")}, {"a": None}))
        response = await http.get("/readyz")
    assert (response.status_code, response.json()) == (503, {"waiting_for": ["t"]})


async def test_before_the_first_route_nothing_is_ready_and_clients_are_asked_to_come_back():
    world = ApiWorld()
    for table in (RouteTable(), RouteTable(1, "t", {}, {"a": None})):
        await world.router.apply(table)
        response = await world.http.get("/readyz")
        assert (response.status_code, response.json()) == (503, {"waiting_for": ["routes"]})
        assert response.headers["retry-after"] == "1"
        for model in ("auto", "auto:t", "a", "nobody"):
            refused(await world.chat(model=model), 503, "engine_unavailable", "starting")
        text = await world.http.post("/v1/completions", json={"prompt": "hi"})
        refused(text, 503, "engine_unavailable")
        for path in ("/v1/models", "/v1/models/a"):
            refused(await world.http.get(path), 503, "engine_unavailable")
    assert (await world.http.get("/healthz")).status_code == 200
    await world.router.apply(TABLE)
    assert (await world.http.get("/readyz")).json() == {"waiting_for": []}
    assert (await world.chat()).status_code == 200
    await world.http.aclose()


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
    (given,) = world.desk.given
    assert given[:4] == ("r1", score, "k", "fine")
    assert "secret" not in given[4]  # a name for the key, which is not the key
