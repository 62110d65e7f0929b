"""Every request ends as one thing at each model it met, and only some are the model's fault."""

import asyncio

import pytest

from hotswap_ray.core.errors import (
    ContextExceeded,
    EngineError,
    EngineTimeout,
    InvalidRequest,
    NotFound,
    Overloaded,
    Saturated,
)
from hotswap_ray.core.routing.split import Share, Split
from hotswap_ray.core.routing.table import Route, RouteTable, with_proof, with_route
from hotswap_ray.core.routing.target import Target
from tests.worlds.router import A, B, C, RouterWorld, call, read, settle
from tests.worlds.until import until

MODELS = {"a": A, "b": B, "c": C}


@pytest.fixture(params=[False, True], ids=["whole", "streamed"])
def ask(request):
    """Sends a request and reads its answer."""

    async def whole(world, sent):
        return (await world.router.generate(sent))[0]

    async def streamed(world, sent):
        opened = await world.router.open(sent)
        await read(opened)
        return opened.assignment

    return streamed if request.param else whole


async def world_of(route, **limits):
    world = RouterWorld(**limits)
    await world.use(RouteTable(1, "t", {"t": route}, MODELS))
    return world


def canary():
    """A task whose conversations all go to the candidate b."""
    return Route("a", A, split=Split("s", (Share(B, 1.0),)))


def fails(world, model, error):
    world.models[model].fails_at, world.models[model].error = 0, error


async def test_what_a_candidate_refuses_and_the_active_model_takes_is_its_refusal(ask):
    world = await world_of(canary())
    fails(world, "b", InvalidRequest("too long for me"))
    assignment = await ask(world, call())
    assert (assignment.target, str(assignment.decision)) == (A, "fallback")
    assert sorted(world.endings) == [("a", "ok"), ("b", "refusal")]
    refused = next(o for o in world.router.recorder.outcomes if o.model == "b")
    assert (refused.decision, refused.success, refused.status) == ("canary", False, 400)
    assert refused.is_evidence
    assert not world.router.in_flight


async def test_a_mistake_that_both_refuse_blames_nobody(ask):
    world = await world_of(canary())
    fails(world, "b", InvalidRequest("no such field"))
    fails(world, "a", InvalidRequest("temperature is too high"))
    with pytest.raises(InvalidRequest, match="temperature"):
        await ask(world, call())
    assert sorted(world.endings) == [("a", "client_error"), ("b", "client_error")]
    assert not any(o.is_evidence for o in world.router.recorder.outcomes)


async def test_what_a_candidate_refuses_while_the_active_model_is_down_is_not_held_against_it(ask):
    world = await world_of(canary())
    fails(world, "b", InvalidRequest("no"))
    fails(world, "a", EngineError("down"))
    with pytest.raises(EngineError, match="down"):
        await ask(world, call())
    assert sorted(world.endings) == [("a", "failed"), ("b", "client_error")]


async def test_a_new_model_that_refuses_is_backed_by_the_proven_one_while_it_bakes(ask):
    world = await world_of(Route("a", A))
    await world.use(with_route(world.table, "t", B, {}, proving=True))
    fails(world, "b", InvalidRequest("no"))
    assert (await ask(world, call())).target == A
    assert ("b", "refusal") in world.endings
    await world.use(with_proof(world.table, "t"))
    with pytest.raises(InvalidRequest):
        await ask(world, call())
    assert world.endings[-1] == ("b", "client_error")


async def test_what_a_new_model_refuses_while_it_is_rolled_back_the_active_one_answers(ask):
    world = await world_of(Route("a", A))
    await world.use(with_route(world.table, "t", B, {}, proving=True))
    fails(world, "b", InvalidRequest("no"))
    world.models["b"].gate.clear()
    asked = asyncio.create_task(ask(world, call()))
    await until(lambda: world.models["b"].calls)
    await world.use(with_route(world.table, "t", A, {}))
    world.models["b"].gate.set()
    assert (await asked).target == A
    assert ("b", "refusal") in world.endings


async def test_a_pinned_models_refusal_is_the_clients(ask):
    world = await world_of(canary())
    fails(world, "b", InvalidRequest("no"))
    with pytest.raises(InvalidRequest):
        await ask(world, call("b"))
    assert world.endings == [("b", "client_error")]


async def test_a_context_that_is_too_short_by_the_engines_count_goes_to_a_longer_one(ask):
    short, long = Target("a", 1, 8, 100), Target("c", 1, 8, 9000)
    world = RouterWorld()
    await world.use(RouteTable(1, "t", {"t": Route("a", short)}, {"a": short, "c": long}))
    fails(world, "a", ContextExceeded("101 tokens, 100 fit"))
    assignment = await ask(world, call())
    assert (assignment.target, str(assignment.decision)) == (long, "escalated")
    assert ("a", "client_error") in world.endings
    with pytest.raises(ContextExceeded, match="100 fit"):
        await ask(world, call("a"))


@pytest.mark.parametrize("error", [Overloaded("full", 30.0), Saturated("busy"), Saturated("x", 9)])
async def test_a_server_without_room_is_left_for_the_fallback_and_not_blamed(ask, error):
    world = await world_of(Route("a", A, B))
    fails(world, "a", error)
    assert (await ask(world, call())).target == B
    assert ("a", "saturated") in world.endings
    assert not next(o for o in world.router.recorder.outcomes if o.model == "a").is_evidence
    fails(world, "a", None)
    world.models["a"].fails_at = None
    assert (await ask(world, call())).target == A, "it is no suspect"


async def test_a_server_that_has_room_again_soon_is_waited_for(ask):
    world = await world_of(Route("a", A, B))
    fails(world, "a", Overloaded("full", 0.01))
    request = asyncio.create_task(ask(world, call()))
    await until(lambda: world.endings)
    world.models["a"].fails_at = None
    assert (await request).target == A
    assert world.endings == [("a", "saturated"), ("a", "ok")]
    assert world.models["b"].calls == 0


async def test_a_queue_of_ours_that_is_full_spills_to_the_fallback(ask):
    small = Target("a", 1, 1)
    world = RouterWorld()
    await world.use(RouteTable(1, "t", {"t": Route("a", small, B)}, {"a": small, "b": B}))
    world.models["a"].gate.clear()
    first = asyncio.create_task(world.router.generate(call()))
    await settle()
    assert (await ask(world, call())).target == B
    assert ("a", "saturated") in world.endings
    world.models["a"].gate.set()
    await first


async def test_nobody_with_room_means_429_once(ask):
    world = await world_of(Route("a", A))
    fails(world, "a", Overloaded("full", 30.0))
    with pytest.raises(Overloaded, match="full"):
        await ask(world, call())
    assert world.endings == [("a", "saturated")]


async def test_a_limit_that_runs_out_is_a_timeout(ask):
    world = await world_of(Route("a", A), first_byte_timeout_s=0.05, request_timeout_s=0.05)
    world.models["a"].gate.clear()
    with pytest.raises(EngineTimeout):
        await ask(world, call())
    assert world.endings == [("a", "timed_out")]
    assert world.router.recorder.outcomes[0].is_evidence


async def test_a_stream_that_falls_silent_ends_with_an_error():
    world = await world_of(Route("a", A, B), stream_idle_timeout_s=0.05)
    world.models["a"].waits_at = 1
    world.models["a"].gate.clear()
    opened = await world.router.open(call())
    with pytest.raises(EngineTimeout, match="no further piece of the answer within"):
        await read(opened)
    assert world.endings == [("a", "timed_out")]
    assert world.models["b"].calls == 0
    assert not world.router.in_flight


async def test_a_client_that_reads_slowly_is_no_silence_of_the_model():
    world = await world_of(Route("a", A), stream_idle_timeout_s=0.05)
    opened = await world.router.open(call())
    await asyncio.sleep(0.06)  # longer than the limit: that is the point
    assert len(await read(opened)) == 3
    assert world.endings == [("a", "ok")]


async def test_what_a_client_left_has_cost_is_recorded():
    world = await world_of(Route("a", A))
    world.models["a"].pieces = [b"data: 1\n\ndata: 2\n\n", b"data: 3\n\n", (3, 9, 64)]
    world.models["a"].waits_at = 2
    world.models["a"].gate.clear()
    opened = await world.router.open(call())
    await anext(opened.rest)
    await opened.rest.aclose()
    assert world.endings == [("a", "cancelled")]
    assert world.router.recorder.outcomes[0].tokens_out == 3


async def test_what_we_refuse_is_recorded_with_its_status(ask):
    world = await world_of(Route("a", A))
    await world.use(RouteTable(2, "t", {"t": Route("a")}, {"a": None}))
    with pytest.raises(EngineError):
        await ask(world, call())
    outcome = world.router.recorder.outcomes[0]
    assert (outcome.model, outcome.decision, outcome.end) == ("", "refused", "refused")
    assert outcome.status == 503
    assert not outcome.is_evidence
    with pytest.raises(NotFound):
        await ask(world, call("auto:nothing"))
    assert world.router.turned_away == {("not_found", 404): 1}


async def test_a_request_that_names_a_model_and_no_task_is_evidence_of_none(ask):
    world = await world_of(Route("a", A))
    assert (await ask(world, call("b"))).task == ""
    assert (await ask(world, call("b", task_header="t"))).task == "t"
    assert [o.is_evidence for o in world.router.recorder.outcomes] == [False, True]
