"""The router with connections in this process: who serves, what is counted, what is recorded."""

import asyncio

import pytest

from hotswap_ray.core.errors import (
    EngineError,
    EngineUnavailable,
    InvalidRequest,
    ModelNotLoaded,
    NotFound,
)
from hotswap_ray.core.routing.table import Route, RouteTable, with_model
from hotswap_ray.core.routing.target import Target
from tests.worlds.router import FALLBACK, A, B, C, RouterWorld, call, read, settle


@pytest.fixture
async def world():
    made = RouterWorld()
    await made.use()
    return made


async def test_a_whole_answer_and_its_outcome_are_complete(world):
    assignment, answer = await world.router.generate(call())
    assert (answer, assignment.target, assignment.decision) == (b"a", A, "active")
    outcome = world.router.recorder.outcomes[0]
    assert (outcome.request_id, outcome.task, outcome.model, outcome.generation) == (
        "r1",
        "t",
        "a",
        1,
    )
    assert (outcome.tokens_in, outcome.tokens_out, outcome.memory_bytes) == (3, 2, 64)
    assert outcome.success
    assert outcome.at_s == 100.0
    assert outcome.latency_ms >= 0
    assert outcome.ttft_ms is None


async def test_a_streamed_answer_has_a_first_byte_time_within_its_latency(world):
    assert await read(await world.router.open(call())) == [b"one ", b"two", (3, 2, 64)]
    outcome = world.router.recorder.outcomes[0]
    assert outcome.success
    assert 0 <= outcome.ttft_ms <= outcome.latency_ms
    assert (outcome.tokens_in, outcome.tokens_out, outcome.memory_bytes) == (3, 2, 64)


async def test_a_stream_keeps_its_model_to_the_last_byte_when_the_table_changes(world):
    model = world.models["a"]
    model.waits_at = 1
    model.gate.clear()
    opened = await world.router.open(call())
    await world.switch(B)
    after = await world.router.open(call())
    assert world.router.in_flight == {A.app: 1, B.app: 1}
    model.gate.set()
    assert opened.assignment.target == A
    assert await read(opened) == [b"one ", b"two", (3, 2, 64)]
    assert after.assignment.target == B
    assert (model.calls, model.ended) == (1, 1)
    await after.rest.aclose()
    assert not world.router.in_flight


async def test_a_whole_answer_keeps_its_model_when_the_table_changes(world):
    world.models["a"].gate.clear()
    request = asyncio.create_task(world.router.generate(call()))
    await settle()
    await world.switch(B)
    assert world.router.in_flight == {A.app: 1}
    world.models["a"].gate.set()
    assignment, answer = await request
    assert (assignment.target, answer) == (A, b"a")


async def test_a_new_target_is_connected_before_the_table_is_used_and_only_once(world):
    assert world.connects == {A.app: 1, B.app: 1, C.app: 1}
    assert set(await world.switch(B)) == {A.app, B.app, C.app}
    await world.router.generate(call())
    assert set(world.connects.values()) == {1}


async def test_a_connection_is_dropped_when_the_table_no_longer_names_its_application(world):
    await world.switch(B)
    await world.use(with_model(world.table, "a", None, FALLBACK))
    await world.use(with_model(world.table, "a", A, FALLBACK))
    assert world.connects[A.app] == 2


@pytest.mark.parametrize("end", ["success", "failure", "cancelled", "closed early", "no model"])
@pytest.mark.parametrize("streamed", [True, False])
async def test_the_count_returns_to_zero_however_a_request_ends(world, streamed, end):
    model = world.models["c"]
    model.waits_at = 1
    if end in ("cancelled", "closed early"):
        model.gate.clear()
    if end == "failure":
        model.fails_at = 1
    if end == "no model":
        model.pieces = []
        model.fails_at = 0

    async def serve():
        if not streamed:
            return await world.router.generate(call("auto:u"))
        opened = await world.router.open(call("auto:u"))
        try:
            return await read(opened)
        finally:
            await opened.rest.aclose()

    request = asyncio.create_task(serve())
    await settle()
    if not request.done():
        assert world.router.in_flight == {C.app: 1}
    if end in ("cancelled", "closed early"):
        request.cancel()
    await asyncio.wait([request])
    assert not world.router.in_flight
    assert model.calls == model.ended == 1
    expected = {"success": "ok", "failure": "failed", "no model": "failed"}
    assert world.endings == [("c", expected.get(end, "cancelled"))]


async def test_a_client_that_leaves_while_it_waits_for_the_first_byte_stops_the_model(world):
    model = world.models["a"]
    model.gate.clear()
    request = asyncio.create_task(world.router.open(call()))
    await settle()
    request.cancel()
    await asyncio.wait([request])
    assert (model.calls, model.ended, world.models["b"].calls) == (1, 1, 0)
    assert not world.router.in_flight
    assert world.endings == [("a", "cancelled")]


async def test_a_stream_closed_after_its_usage_counts_as_a_success(world):
    opened = await world.router.open(call())
    async for item in opened.rest:
        if isinstance(item, tuple):
            break
    await opened.rest.aclose()
    assert world.outcomes == [("a", "active", True)]


@pytest.mark.parametrize("streamed", [True, False])
async def test_a_model_that_fails_before_the_first_byte_is_retried_once_on_the_fallback(
    world, streamed
):
    world.models["a"].fails_at = 0
    if streamed:
        opened = await world.router.open(call())
        assert (await read(opened))[-1] == (3, 2, 64)
        assignment = opened.assignment
    else:
        assignment, answer = await world.router.generate(call())
        assert answer == b"b"
    assert (assignment.target, assignment.decision) == (B, "fallback")
    assert world.outcomes == [("a", "active", False), ("b", "fallback", True)]
    assert world.models["a"].calls == world.models["b"].calls == 1


@pytest.mark.parametrize("streamed", [True, False])
async def test_when_the_fallback_fails_too_its_error_is_raised_and_nothing_else_is_tried(
    world, streamed
):
    world.models["a"].fails_at = world.models["b"].fails_at = 0
    world.models["b"].error = EngineError("broken as well")
    begin = world.router.open if streamed else world.router.generate
    with pytest.raises(EngineError, match="broken as well"):
        await begin(call())
    assert world.outcomes == [("a", "active", False), ("b", "fallback", False)]
    assert not world.router.in_flight


async def test_a_stream_that_fails_after_its_first_byte_is_never_retried(world):
    world.models["a"].fails_at = 1
    opened = await world.router.open(call())
    with pytest.raises(EngineError, match="broken"):
        await read(opened)
    assert world.models["b"].calls == 0
    assert world.outcomes == [("a", "active", False)]
    assert world.router.recorder.outcomes[0].ttft_ms is not None


async def test_a_stream_without_its_usage_at_the_end_was_cut_short(world):
    world.models["a"].pieces = [b"one "]
    opened = await world.router.open(call())
    with pytest.raises(EngineUnavailable, match="cut its answer short"):
        await read(opened)
    assert world.outcomes == [("a", "active", False)]


@pytest.mark.parametrize("streamed", [True, False])
async def test_a_pinned_request_is_never_retried_on_another_model(world, streamed):
    world.models["a"].fails_at = 0
    begin = world.router.open if streamed else world.router.generate
    with pytest.raises(EngineError):
        await begin(call("a", task_header="t"))
    assert world.outcomes == [("a", "pinned", False)]
    assert world.models["b"].calls == 0


@pytest.mark.parametrize("streamed", [True, False])
async def test_the_clients_fault_is_neither_retried_nor_held_against_the_model(world, streamed):
    world.models["a"].fails_at = 0
    world.models["a"].error = InvalidRequest("prompt exceeds the context")
    begin = world.router.open if streamed else world.router.generate
    with pytest.raises(InvalidRequest):
        await begin(call())
    assert world.models["b"].calls == 0
    assert world.endings == [("a", "client_error")]
    assert not world.router.recorder.outcomes[0].is_evidence
    assert not world.router.in_flight


async def test_an_error_of_another_library_reaches_the_caller_as_engine_unavailable(world):
    world.models["c"].fails_at = 0
    world.models["c"].error = ConnectionResetError("peer")
    with pytest.raises(EngineUnavailable, match="ConnectionResetError: peer"):
        await world.router.generate(call("auto:u"))


async def test_the_retry_goes_to_a_target_of_the_current_table_never_to_a_deleted_one(world):
    world.models["a"].gate.clear()
    world.models["a"].fails_at = 0
    request = asyncio.create_task(world.router.generate(call()))
    await settle()
    again = Target("b", 2, 8)
    await world.use(with_model(world.table, "b", again, FALLBACK))
    world.models["a"].gate.set()
    assignment, _ = await request
    assert assignment.target == again


async def test_a_retry_after_a_swap_goes_to_the_new_active_model(world):
    world.models["a"].gate.clear()
    world.models["a"].fails_at = 0
    request = asyncio.create_task(world.router.generate(call()))
    await settle()
    await world.switch(C)
    world.models["a"].gate.set()
    assignment, _ = await request
    assert (assignment.target, assignment.decision) == (C, "fallback")


async def test_a_target_that_does_not_answer_does_not_keep_the_table_from_being_used(
    world, monkeypatch
):
    async def refuse():
        raise EngineUnavailable("not there")

    monkeypatch.setattr(world.models["b"], "ping", refuse)
    world.table = RouteTable(2, "t", {"t": Route("a", A)}, {"a": A})
    await world.use()
    connected = await world.use(RouteTable(3, "t", {"t": Route("b", B)}, {"a": A, "b": B}))
    assert connected == [A.app]
    assert (await world.router.generate(call()))[1] == b"b"


@pytest.mark.parametrize(
    ("request_", "sentence"),
    [
        (call("c2"), "unknown model 'c2'; did you mean 'c'?"),
        (call("auto:tt"), "unknown task 'tt'; did you mean 't'?"),
        (call(task_header="x"), "unknown task 'x'; known: t, u"),
    ],
)
async def test_an_unknown_name_is_refused_with_a_suggestion(world, request_, sentence):
    with pytest.raises(NotFound) as caught:
        await world.router.generate(request_)
    assert str(caught.value) == sentence


async def test_a_known_model_that_is_not_loaded_is_told_from_an_unknown_one(world):
    await world.use(with_model(world.table, "c", None, FALLBACK))
    with pytest.raises(ModelNotLoaded, match="hotswap models load c"):
        await world.router.generate(call("c"))
    with pytest.raises(EngineUnavailable, match="not loaded yet"):
        await world.router.generate(call("auto:u"))


async def test_the_task_comes_from_the_header_then_metadata_then_the_name_then_the_default(world):
    async def task(model="auto", **where):
        return (await world.router.generate(call(model, **where)))[0].task

    assert await task("auto:t", task_header="u", task_metadata="t") == "u"
    assert await task("auto:t", task_metadata="u") == "u"
    assert await task("auto:u") == "u"
    assert await task() == "t"
    assert await task("b", task_header="u") == "u"


async def test_a_preferred_model_serves_and_may_fall_back_to_the_active_one(world):
    assignment, _ = await world.router.generate(call(prefer="b"))
    assert (assignment.target, assignment.decision) == (B, "pinned")
    world.models["b"].fails_at = 0
    assignment, _ = await world.router.generate(call(prefer="b"))
    assert (assignment.target, assignment.decision) == (A, "fallback")
