"""The router's bounds: time, queues, held routes, and models that are not there."""

import asyncio

import pytest

from hotswap_ray.actors.ingress import suspects
from hotswap_ray.core.errors import EngineTimeout, EngineUnavailable, Overloaded
from hotswap_ray.core.routing.table import Route, RouteTable, with_hold, with_model
from hotswap_ray.core.routing.target import Target
from tests.worlds.router import FALLBACK, A, B, C, RouterWorld, call, read, settle


@pytest.fixture
async def world():
    made = RouterWorld()
    await made.use()
    return made


async def test_no_first_byte_in_time_sends_the_request_to_the_fallback():
    world = RouterWorld(first_byte_timeout_s=0.05)
    await world.use()
    world.models["a"].gate.clear()
    opened = await world.router.open(call())
    assert opened.assignment.target == B
    assert await read(opened) == [b"one ", b"two", (3, 2, 64)]
    assert world.outcomes == [("a", "active", False), ("b", "fallback", True)]
    assert world.models["a"].ended == 1


async def test_a_stream_that_does_not_end_in_time_is_ended_with_an_error():
    world = RouterWorld(first_byte_timeout_s=0.05, request_timeout_s=0.1)
    await world.use()
    world.models["a"].waits_at = 1
    world.models["a"].gate.clear()
    opened = await world.router.open(call())
    with pytest.raises(EngineTimeout, match=r"no end of the answer within 0\.1 s"):
        await read(opened)
    assert world.outcomes == [("a", "active", False)]
    assert world.models["a"].ended == 1
    assert not world.router.in_flight


async def test_the_time_limit_of_a_whole_answer_holds_for_both_attempts_together():
    world = RouterWorld(first_byte_timeout_s=0.05, request_timeout_s=0.05)
    await world.use()
    world.models["a"].gate.clear()
    with pytest.raises(EngineTimeout, match=r"no answer within 0\.05 s"):
        await world.router.generate(call())
    assert world.models["b"].calls == 0


async def test_a_slow_reader_between_two_pieces_does_not_trip_a_time_limit_in_its_own_code():
    world = RouterWorld(first_byte_timeout_s=0.05, request_timeout_s=30)
    await world.use()
    opened = await world.router.open(call())
    await asyncio.sleep(0.06)  # longer than the limit: that is the point
    assert await read(opened) == [b"one ", b"two", (3, 2, 64)]


async def test_a_model_at_its_limit_refuses_with_overloaded_and_says_when_to_come_back(world):
    small = Target("a", 1, 2)
    await world.use(RouteTable(1, "t", {"t": Route("a", small)}, {"a": small, "b": B}))
    world.models["a"].gate.clear()
    full = [asyncio.create_task(world.router.generate(call())) for _ in range(2)]
    await settle()
    for begin in (world.router.open, world.router.generate):
        with pytest.raises(Overloaded) as caught:
            await begin(call())
        assert caught.value.retry_after_s
    world.models["a"].gate.set()
    await asyncio.gather(*full)
    await world.router.generate(call())
    assert world.models["b"].calls == 0  # which is loaded, and no business of this task


async def test_an_ingress_at_its_limit_refuses_whatever_the_model():
    world = RouterWorld(max_in_flight=1)
    await world.use()
    world.models["a"].gate.clear()
    first = asyncio.create_task(world.router.generate(call()))
    await settle()
    with pytest.raises(Overloaded):
        await world.router.generate(call("auto:u"))
    world.models["a"].gate.set()
    await first
    await world.router.generate(call("auto:u"))


async def test_a_held_route_waits_and_goes_on_with_the_new_model(world):
    await world.use(with_hold(world.table, "t", True))
    request = asyncio.create_task(world.router.generate(call()))
    await settle()
    assert not request.done()
    assert not world.router.in_flight
    await world.switch(B)
    assignment, answer = await request
    assert (assignment.target, assignment.decision, answer) == (B, "active", b"b")


async def test_other_tasks_and_pinned_requests_do_not_wait_for_a_held_route(world):
    await world.use(with_hold(world.table, "t", True))
    assert (await world.router.generate(call("auto:u")))[1] == b"c"
    assert (await world.router.generate(call("b")))[1] == b"b"


async def test_a_route_held_too_long_is_refused_although_the_table_changes_meanwhile():
    world = RouterWorld(hold_timeout_s=0.1)
    await world.use()
    await world.use(with_hold(world.table, "t", True))
    request = asyncio.create_task(world.router.generate(call()))
    loop = asyncio.get_running_loop()
    until = loop.time() + 5
    while not request.done() and loop.time() < until:
        await world.switch(C, "u")
        await asyncio.sleep(0.01)
    with pytest.raises(EngineUnavailable, match="still swapping") as caught:
        await request
    assert caught.value.retry_after_s


async def test_the_queue_of_a_held_route_is_bounded():
    world = RouterWorld(max_held_requests=2)
    await world.use()
    await world.use(with_hold(world.table, "t", True))
    waiting = [asyncio.create_task(world.router.generate(call())) for _ in range(2)]
    await settle()
    with pytest.raises(EngineUnavailable, match="queue is full"):
        await world.router.open(call())
    await world.use(with_hold(world.table, "t", False))
    await asyncio.gather(*waiting)


async def test_a_client_that_leaves_a_held_route_gives_its_place_back():
    world = RouterWorld(max_held_requests=1)
    await world.use()
    await world.use(with_hold(world.table, "t", True))
    first = asyncio.create_task(world.router.generate(call()))
    await settle()
    first.cancel()
    await asyncio.wait([first])
    second = asyncio.create_task(world.router.generate(call()))
    await settle()
    await world.use(with_hold(world.table, "t", False))
    await second


@pytest.mark.parametrize("withdrawn", [False, True])
async def test_the_last_request_of_a_model_that_is_left_or_taken_away_is_reported(world, withdrawn):
    world.models["a"].gate.clear()
    request = asyncio.create_task(world.router.generate(call()))
    await settle()
    await world.switch(B)
    if withdrawn:
        await world.use(with_model(world.table, "a", None, FALLBACK))
    assert world.drained == 0
    world.models["a"].gate.set()
    await request
    assert world.drained == 1


async def test_a_model_that_is_in_use_is_not_reported_when_it_is_idle(world):
    await world.router.generate(call())
    assert world.drained == 0


@pytest.fixture
def fast_probes(monkeypatch):
    monkeypatch.setattr(suspects, "AGAIN_S", 0.001)
    monkeypatch.setattr(suspects, "PROBE_S", 0.02)
    monkeypatch.setattr(suspects, "QUIET_S", 0)


@pytest.mark.usefixtures("fast_probes")
async def test_while_the_active_model_does_not_answer_requests_go_straight_to_the_fallback(world):
    model = world.models["a"]
    model.fails_at, model.error, model.pings = 0, RuntimeError("actor died"), False
    for _ in range(3):
        assignment, _ = await world.router.generate(call())
        assert (assignment.target, assignment.decision) == (B, "fallback")
    assert model.calls == 1
    assert [o.model for o in world.router.recorder.outcomes] == ["a", "b", "b", "b"]


async def test_a_model_that_answers_again_gets_its_requests_back(world):
    world.models["a"].fails_at = 0
    world.models["a"].error = EngineUnavailable("lost")
    await world.router.generate(call())
    world.models["a"].fails_at = None
    await settle()
    assignment, _ = await world.router.generate(call())
    assert assignment.target == A


@pytest.mark.usefixtures("fast_probes")
@pytest.mark.parametrize("name", ["auto:u", "c"])
async def test_without_a_fallback_requests_wait_for_a_lost_model_and_are_served(world, name):
    model = world.models["c"]
    model.fails_at, model.error, model.pings = 0, EngineUnavailable("lost"), False
    with pytest.raises(EngineUnavailable, match="lost"):
        await world.router.generate(call(name))
    request = asyncio.create_task(world.router.generate(call(name)))
    await settle()
    assert (model.calls, request.done()) == (1, False)
    assert not world.router.in_flight
    model.fails_at, model.pings = None, True
    assignment, _ = await request
    assert assignment.target == C


@pytest.mark.usefixtures("fast_probes")
async def test_the_wait_for_a_lost_model_is_bounded_in_time_and_number():
    world = RouterWorld(first_byte_timeout_s=0.05, max_held_requests=1)
    await world.use()
    model = world.models["c"]
    model.fails_at, model.error, model.pings = 0, EngineUnavailable("lost"), False
    with pytest.raises(EngineUnavailable, match="lost"):
        await world.router.generate(call("c"))
    request = asyncio.create_task(world.router.generate(call("c")))
    await settle()
    with pytest.raises(EngineUnavailable, match="queue is full"):
        await world.router.open(call("c"))
    with pytest.raises(EngineUnavailable, match="does not answer") as caught:
        await request
    assert caught.value.retry_after_s


@pytest.mark.usefixtures("fast_probes")
async def test_requests_that_wait_for_a_lost_model_follow_a_swap_away_from_it(world):
    model = world.models["c"]
    model.fails_at, model.error, model.pings = 0, EngineUnavailable("lost"), False
    with pytest.raises(EngineUnavailable):
        await world.router.generate(call("auto:u"))
    request = asyncio.create_task(world.router.generate(call("auto:u")))
    await settle()
    await world.switch(A, "u")
    assignment, _ = await request
    assert assignment.target == A


@pytest.mark.usefixtures("fast_probes")
@pytest.mark.parametrize("streamed", [True, False])
async def test_a_request_leaves_a_model_that_says_nothing_and_is_not_there(world, streamed):
    model = world.models["a"]
    model.gate.clear()
    model.pings = False
    begin = world.router.open if streamed else world.router.generate
    request = asyncio.create_task(begin(call()))
    await settle()
    world.router.watch()
    answer = await request
    assignment = answer.assignment if streamed else answer[0]
    assert (assignment.target, assignment.decision) == (B, "fallback")
    assert model.calls == model.ended == 1
    assert world.outcomes[0] == ("a", "active", False)
    if streamed:
        await answer.rest.aclose()
    assert not world.router.in_flight


@pytest.mark.usefixtures("fast_probes")
async def test_a_model_that_is_slow_but_there_keeps_its_requests(world):
    world.models["a"].gate.clear()
    request = asyncio.create_task(world.router.generate(call()))
    await settle()
    for _ in range(5):
        world.router.watch()
        await settle()
    assert not request.done()
    world.models["a"].gate.set()
    assignment, _ = await request
    assert assignment.target == A
    assert world.outcomes == [("a", "active", True)]


@pytest.mark.usefixtures("fast_probes")
async def test_a_stream_that_has_begun_stays_whatever_a_ping_says(world):
    model = world.models["a"]
    model.waits_at = 1
    model.gate.clear()
    opened = await world.router.open(call())
    model.pings = False
    rest = asyncio.create_task(read(opened))
    world.router.watch()
    while (await world.router.generate(call()))[0].target != B:
        pass
    model.gate.set()
    assert await rest == [b"one ", b"two", (3, 2, 64)]


async def test_a_model_without_requests_is_not_bothered(world):
    world.models["a"].pings = False
    world.router.watch()
    await settle()
    assert (await world.router.generate(call()))[0].target == A
