"""The data plane over ASGI, called without a server; the router is real, its models are not."""

import json

import httpx
import pytest

from hotswap_ray.core.errors import EngineError, EngineUnavailable
from hotswap_ray.core.routing.table import Route, RouteTable
from tests.worlds.api import CHAT, TABLE, ApiWorld, refused


@pytest.fixture
async def world():
    made = ApiWorld()
    await made.router.apply(TABLE)
    yield made
    await made.http.aclose()


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
    assert [o.request_id for o in world.router.recorder.outcomes] == [
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
    assert [o.end for o in world.router.recorder.outcomes] == ["cancelled"]


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
    (given,) = world.desk.given
    assert given[:4] == ("r1", score, "k", "fine")
    assert "secret" not in given[4]  # a name for the key, which is not the key
