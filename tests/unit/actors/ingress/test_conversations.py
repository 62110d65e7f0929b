"""A conversation keeps its model, through exploration too, and a tool loop whatever happens."""

from dataclasses import replace

import pytest

from hotswap_ray.actors.ingress.call import Call
from hotswap_ray.core.policies.selection import Arm
from hotswap_ray.core.routing.call_ids import mark_of, signed
from hotswap_ray.core.routing.split import Share, Split
from hotswap_ray.core.routing.table import (
    Route,
    RouteTable,
    Trial,
    with_hold,
    with_model,
    with_split,
)
from tests.worlds.router import FALLBACK, A, B, C, RouterWorld, named, settle
from tests.worlds.until import until

TOOLS = [{"type": "function", "function": {"name": "look"}}]
CALLS = b'{"choices":[{"finish_reason":"tool_calls"}]}'
MODELS = {"a": A, "b": B, "c": C}


def arms(*models):
    return tuple(Arm(model) for model in models)


async def world_of(route, **limits):
    world = RouterWorld(**limits)
    await world.use(RouteTable(1, "t", {"t": route}, MODELS))
    world.router.explorer.arms = {"t": arms("a", "b", "c")}
    return world


def turn(*messages, session=None, **body):
    body = {"messages": [{"role": "user", "content": "go"}, *messages], **body}
    return Call("r", "chat/completions", body, "auto", names=named(session))


def result_of(target, **more):
    """The messages of a turn that brings the result of a call of some model."""
    call_id = signed("c1", mark_of(target.model, target.generation))
    called = {"role": "assistant", "tool_calls": [{"id": call_id, "type": "function"}]}
    return turn(called, {"role": "tool", "tool_call_id": call_id, "content": "17"}, **more)


async def model_of(world, call):
    return (await world.router.generate(call))[0].target.model


@pytest.mark.parametrize("trial", [Trial((B, C), explore=0.5), Trial((B, C), by_policy=True)])
async def test_a_conversation_is_drawn_once(trial):
    world = await world_of(Route("a", A, trial=trial))
    seen = set()
    for number in range(40):
        of_one = {await model_of(world, turn(session=f"s-{number}")) for _ in range(5)}
        assert len(of_one) == 1
        seen |= of_one
    assert len(seen) > 1


async def test_two_ingress_replicas_draw_the_same():
    worlds = [await world_of(Route("a", A, trial=Trial((B,), explore=0.5))) for _ in range(2)]
    for number in range(40):
        one, other = [await model_of(world, turn(session=f"s-{number}")) for world in worlds]
        assert one == other


async def test_a_conversation_that_another_replica_drew_by_policy_keeps_its_model():
    worlds = [await world_of(Route("a", A, trial=Trial((B, C), by_policy=True))) for _ in range(2)]
    one, other = (world.router.explorer.drawn for world in worlds)
    seen = set()
    for number in range(40):
        first = await model_of(worlds[number % 2], turn(session=f"s-{number}"))
        other.take(one.fresh)
        one.take(other.fresh)
        for world in worlds:
            assert await model_of(world, turn(session=f"s-{number}")) == first
        seen.add(first)
    assert len(seen) > 1


async def test_a_conversation_that_was_left_to_the_active_model_moves_with_a_swap():
    world = await world_of(Route("a", A, trial=Trial((C,), by_policy=True)))
    world.router.explorer.arms = {"t": ()}  # nothing to draw from yet
    assert await model_of(world, turn(session="s")) == "a"
    world.router.explorer.arms = {"t": arms("a", "b", "c")}
    await world.use(RouteTable(2, "t", {"t": Route("b", B, trial=Trial((A,), by_policy=True))}))
    assert await model_of(world, turn(session="s")) == "b"


async def test_a_loop_without_a_key_is_never_explored():
    world = await world_of(Route("a", A, trial=Trial((B,), explore=1.0)))
    assert await model_of(world, turn(tools=TOOLS)) == "a"
    assert await model_of(world, turn()) == "b"


async def test_the_result_of_a_call_goes_to_the_model_that_made_it():
    rollout = Route("a", A, B, split=Split("s", (Share(C, 1.0),)))
    world = await world_of(rollout)
    for target, decision in ((A, "active"), (B, "conversation"), (C, "canary")):
        assignment, _ = await world.router.generate(result_of(target, tools=TOOLS))
        assert (assignment.target, str(assignment.decision)) == (target, decision)
    pinned = Call("r", "chat/completions", result_of(A).body, "b")
    assert await model_of(world, pinned) == "b"


async def test_a_swap_moves_a_conversation_only_at_a_turns_end():
    world = await world_of(Route("a", A))
    await world.switch(B)
    assert await model_of(world, result_of(A, tools=TOOLS)) == "a"
    answered = {"role": "assistant", "content": "17"}
    assert await model_of(world, turn(answered, {"role": "user", "content": "and?"})) == "b"


async def test_a_variant_that_is_dropped_keeps_its_open_loops():
    world = await world_of(Route("a", A))
    split = Split("s", (Share(B, 1.0),))
    await world.use(with_split(world.table, "t", split.without("b")))
    assert await model_of(world, result_of(B, tools=TOOLS)) == "b"
    assert await model_of(world, turn(tools=TOOLS, session="s")) == "a"


async def test_a_loop_goes_on_while_its_route_is_held():
    world = await world_of(Route("a", A), hold_timeout_s=0.01)
    await world.use(with_hold(world.table, "t", True))
    assert await model_of(world, result_of(A, tools=TOOLS)) == "a"


async def test_a_loop_whose_model_is_gone_goes_on_elsewhere():
    world = await world_of(Route("a", A))
    await world.switch(B)
    await world.use(with_model(world.table, "a", None, FALLBACK))
    assert await model_of(world, result_of(A, tools=TOOLS)) == "b"


async def test_a_legacy_function_loop_stays_on_its_model_through_a_swap():
    world = await world_of(Route("a", A))

    async def calls(endpoint, body):
        return CALLS.replace(b"tool_calls", b"function_call"), 3, 2, 64

    world.models["a"].generate = calls
    functions = [{"name": "look"}]
    await world.router.generate(turn(session="s-1", functions=functions))
    await world.switch(B)
    called = {"role": "assistant", "content": None, "function_call": {"name": "look"}}
    result = {"role": "function", "name": "look", "content": "17"}
    assert await model_of(world, turn(called, result, session="s-1", functions=functions)) == "a"
    assert await model_of(world, turn(session="s-1", functions=functions)) == "b"


async def test_a_model_that_waits_for_a_result_is_told_for_a_while():
    world = await world_of(Route("a", A), tool_result_wait_s=0.05)

    async def calls(endpoint, body):
        return CALLS, 3, 2, 64

    world.models["a"].generate = calls
    await world.router.generate(turn(tools=TOOLS))
    await world.switch(B)
    assert world.router.calling() == [A.app]
    before = world.drained
    await until(lambda: world.drained > before)  # told without a request that ends
    assert world.router.calling() == []


async def test_an_answer_without_a_call_leaves_nothing_open():
    world = await world_of(Route("a", A))
    await world.router.generate(turn(tools=TOOLS))
    await settle()
    assert world.router.calling() == []


async def test_a_conversation_keeps_to_one_replica_of_a_model_that_says_so():
    sticky = replace(A, has_affinity=True)
    world = RouterWorld()
    await world.use(RouteTable(1, "t", {"t": Route("a", sticky)}, {"a": sticky, "b": B}))
    seen = []
    answer = world.models["a"].generate

    async def generate(endpoint, body, *context):
        seen.append([one.session for one in context])
        return await answer(endpoint, body)

    world.models["a"].generate = generate
    for call in (turn(session="s-1"), turn(session="s-1"), turn()):
        await world.router.generate(call)
    assert seen == [["s-1"], ["s-1"], []]  # a name that is missing is nobody's session
