"""A stream says something while it waits, and leaves nothing behind when its client does."""

import asyncio
import contextlib
import json

import pytest

from hotswap_ray.core.errors import EngineError, EngineUnavailable
from hotswap_ray.core.routing.table import Route, RouteTable
from hotswap_ray.web.event_stream import EventStream
from tests.worlds.api import TABLE, A, ApiWorld
from tests.worlds.until import until

HELD = RouteTable(2, "t", {"t": Route("a", A, held=True)}, {"a": A})


@pytest.fixture
async def world():
    before = asyncio.all_tasks()
    made = ApiWorld(stream_comment_s=0.05)
    await made.router.apply(TABLE)
    yield made
    await made.http.aclose()
    await until(lambda: asyncio.all_tasks() <= before | {asyncio.current_task()})


def gate(model, frame):
    made = model.gates[frame] = asyncio.Event()
    return made


def error_of(text):
    *_, last = text.strip().split("\n\n")
    return json.loads(last.removeprefix("data: "))["error"]


async def test_a_slow_model_is_waited_for_with_comments_and_then_answers(world):
    slow = gate(world.models["a"], 0)
    wire = world.wire(stream=True)
    await until(lambda: wire.comments >= 3)
    assert wire.status == 200
    assert wire.headers["content-type"].startswith("text/event-stream")
    # Who will answer is not known yet.
    assert [name for name in wire.headers if name.startswith("x-hotswap")] == [
        "x-hotswap-request-id"
    ]
    slow.set()
    await wire.task
    assert wire.text.count(": waiting\n\n") == wire.comments
    events = [part for part in wire.text.split("\n\n") if part.startswith("data")]
    assert events == ['data: {"n": 0}', 'data: {"n": 1}', 'data: {"n": 2}', "data: [DONE]"]
    assert wire.sent[-1]["more_body"] is False


async def test_a_request_that_a_swap_holds_hears_comments_until_it_is_served(world):
    await world.router.apply(HELD)
    wire = world.wire(stream=True)
    await until(lambda: wire.comments >= 2)
    await world.router.apply(RouteTable(3, "t", TABLE.routes, TABLE.models))
    await wire.task
    assert wire.text.endswith("data: [DONE]\n\n")


async def test_a_pause_in_the_middle_is_filled_between_whole_events(world):
    pause = gate(world.models["a"], 2)
    wire = world.wire(stream=True)
    await until(lambda: wire.comments >= 2)
    assert wire.headers["x-hotswap-model"] == "a"
    assert wire.parts[:2] == [b'data: {"n": 0}\n\n', b'data: {"n": 1}\n\n']
    pause.set()
    await wire.task
    assert all(part.endswith(b"\n\n") for part in wire.parts[:-1])
    assert wire.text.endswith('data: {"n": 2}\n\ndata: [DONE]\n\n')


async def test_a_quick_stream_has_no_comment_and_all_headers(world):
    response = await world.chat(stream=True)
    assert ":" not in [line[:1] for line in response.text.splitlines()]
    assert response.headers["x-hotswap-model"] == "a"


async def test_without_the_option_the_status_waits_for_the_model():
    world, other = ApiWorld(stream_comment_s=None), ApiWorld(stream_comment_s=0.05)
    for each in (world, other):
        await each.router.apply(TABLE)
    slow = gate(world.models["a"], 0)
    wire = world.wire(stream=True)
    gate(other.models["a"], 0)
    talking = other.wire(stream=True)
    await until(lambda: world.models["a"].bodies and talking.comments >= 2)
    assert not wire.sent
    talking.task.cancel()
    slow.set()
    await wire.task
    assert wire.headers["x-hotswap-model"] == "a"
    assert not wire.comments
    await world.http.aclose()
    await other.http.aclose()


async def test_an_error_after_a_comment_is_an_event_and_there_is_no_done(world):
    slow = gate(world.models["b"], 0)
    world.models["b"].error = EngineUnavailable("gone", 2.0)
    wire = world.wire(stream=True, model="b")
    await until(lambda: wire.comments)
    slow.set()
    await wire.task
    assert wire.status == 200
    error = error_of(wire.text)
    assert (error["message"], error["type"], error["code"]) == (
        "gone",
        "server_error",
        "engine_unavailable",
    )
    assert "[DONE]" not in wire.text
    assert wire.sent[-1]["more_body"] is False


async def test_a_fallback_still_serves_after_a_comment(world):
    slow = gate(world.models["a"], 0)
    world.models["a"].error = EngineError("broken")
    wire = world.wire(stream=True)
    await until(lambda: wire.comments)
    slow.set()
    await wire.task
    assert len(world.models["b"].bodies) == 1
    assert wire.text.endswith("data: [DONE]\n\n")


async def test_a_hold_that_takes_too_long_ends_with_an_error_event():
    world = ApiWorld(stream_comment_s=0.05, hold_timeout_s=0.3)
    await world.router.apply(HELD)
    wire = world.wire(stream=True)
    await wire.task
    assert wire.comments
    assert error_of(wire.text)["code"] == "engine_unavailable"
    await world.http.aclose()


@pytest.mark.parametrize("after_comment", [False, True])
async def test_a_client_that_leaves_while_it_waits_stops_the_model(world, after_comment):
    gate(world.models["a"], 0)
    wire = world.wire(stream=True)
    await until(lambda: world.models["a"].bodies)
    await until(lambda: wire.comments or not after_comment)
    wire.task.cancel()  # as Serve does when the connection is closed
    with contextlib.suppress(asyncio.CancelledError):
        await wire.task
    assert wire.task.cancelled()
    assert world.models["a"].stopped
    assert not world.router.in_flight
    sent = len(wire.sent)
    other = world.wire(stream=True)
    await until(lambda: other.comments >= 2)
    assert len(wire.sent) == sent  # no comment came any more
    world.models["a"].gates[0].set()
    await other.task


async def test_a_client_that_leaves_a_held_request_frees_its_place(world):
    await world.router.apply(HELD)
    wire = world.wire(stream=True)
    await until(lambda: wire.comments)
    wire.task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await wire.task
    assert wire.task.cancelled()


async def test_a_connection_that_breaks_under_a_comment_stops_the_model(world):
    gate(world.models["a"], 0)
    wire = world.wire(stream=True)
    await until(lambda: world.models["a"].bodies)
    wire.broken = OSError("the connection is closed")
    await wire.task
    assert world.models["a"].stopped
    assert not world.router.in_flight


async def test_a_client_that_does_not_read_gets_no_heap_of_comments():
    reading, got, others = asyncio.Event(), [], []

    async def send(message):
        await reading.wait()
        got.append(message)

    async def send_other(message):
        others.append(message)

    async with EventStream(send, 0.01) as stream, EventStream(send_other, 0.01):
        await until(lambda: stream.begun and len(others) > 10)
        reading.set()
        await stream.frame(b"data: x\n\n")
        await stream.end()
    bodies = [message.get("body") for message in got]
    assert bodies[:3] == [None, b": waiting\n\n", b"data: x\n\n"]


async def test_a_comment_that_is_being_sent_goes_before_the_first_frame():
    order, gates = [], [asyncio.Event(), asyncio.Event()]

    async def send(message):
        if message["type"] == "http.response.start":
            gates[0].set()
            await gates[1].wait()
        order.append(message["type"])

    async with EventStream(send, 0.01) as stream:
        await gates[0].wait()
        frame = asyncio.create_task(stream.frame(b"data: x\n\n"))
        await asyncio.sleep(0)
        gates[1].set()
        await frame
        await stream.end()
    assert order == ["http.response.start", *["http.response.body"] * 3]
