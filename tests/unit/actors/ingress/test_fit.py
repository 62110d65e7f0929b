"""A model that cannot take a request is not chosen for it."""

import pytest

from hotswap_ray.actors.ingress.call import Call
from hotswap_ray.core.errors import ContextExceeded, InvalidRequest
from hotswap_ray.core.routing.split import Share, Split
from hotswap_ray.core.routing.table import Route, RouteTable, Trial
from hotswap_ray.core.routing.target import Target
from hotswap_ray.core.spec.task import Requirements, TaskSpec
from tests.worlds.router import RouterWorld

SMALL = Target("a", 1, 8, 100, ("chat",), ("tools", "vision"))
LARGE = Target("b", 1, 8, 9000, ("chat", "tools"), ())
HUGE = Target("c", 1, 8, 99_000, ("chat", "tools", "vision"), ())
LONG = [{"role": "user", "content": "word " * 1000}]
SHORT = [{"role": "user", "content": "hi"}]
IMAGE = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:"}}]}]


async def chosen(route, models=(SMALL, LARGE, HUGE), model="auto", **body):
    world = RouterWorld()
    table = {target.model: target for target in models}
    await world.use(RouteTable(1, "t", {"t": route}, table))
    sent = Call("r1", "chat/completions", {"messages": SHORT, **body}, model)
    assignment, _ = await world.router.generate(sent)
    return assignment


async def test_a_prompt_that_fits_stays_with_the_model_of_the_task():
    assignment = await chosen(Route("a", SMALL))
    assert (assignment.target, str(assignment.decision)) == (SMALL, "active")


async def test_a_prompt_that_is_too_long_goes_to_the_shortest_context_that_holds_it():
    assignment = await chosen(Route("a", SMALL), messages=LONG)
    assert (assignment.target, str(assignment.decision)) == (LARGE, "escalated")


async def test_the_models_that_a_task_names_come_before_others():
    assignment = await chosen(Route("a", SMALL, HUGE), messages=LONG)
    assert (assignment.target, str(assignment.decision)) == (HUGE, "escalated")


async def test_the_model_of_the_task_gets_what_nobody_can_hold_and_refuses_with_both_numbers():
    assert (await chosen(Route("a", SMALL), models=[SMALL], messages=LONG)).target == SMALL


async def test_a_candidate_that_cannot_hold_a_request_does_not_get_it():
    split = Route("b", LARGE, split=Split("s", (Share(SMALL, 1.0),)))
    assert (await chosen(split, messages=LONG)).target == LARGE
    assert (await chosen(split)).target == SMALL
    trial = Route("b", LARGE, trial=Trial((SMALL,), explore=1.0))
    assert (await chosen(trial, messages=LONG)).target == LARGE


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "f"}}])
async def test_a_call_that_is_required_goes_to_a_model_that_calls_or_is_refused_by_name(choice):
    body = {"tools": [{"type": "function"}], "tool_choice": choice}
    assert (await chosen(Route("a", SMALL), **body)).target == LARGE
    with pytest.raises(InvalidRequest, match=r"'a' does not do tools \(it does: chat\)"):
        await chosen(Route("a", SMALL), models=[SMALL], **body)
    with pytest.raises(InvalidRequest, match="'a' does not do tools"):
        await chosen(Route("a", SMALL), model="a", **body)


async def test_tools_that_nobody_can_call_and_nobody_requires_are_left_out_and_told():
    world = RouterWorld()
    bodies = []
    answer = world.models["a"].generate

    async def generate(endpoint, body):
        bodies.append(body)
        return await answer(endpoint, body)

    world.models["a"].generate = generate
    await world.use(RouteTable(1, "t", {"t": Route("a", SMALL)}, {"a": SMALL}))
    body = {"messages": SHORT, "tools": [{}], "tool_choice": "auto", "temperature": 0}
    assignment, _ = await world.router.generate(Call("r1", "chat/completions", body, "auto"))
    assert assignment.left_out == ("tools",)
    assert bodies == [{"messages": SHORT, "temperature": 0}]


async def test_tools_that_are_only_offered_go_to_models_that_the_task_names():
    assignment = await chosen(Route("a", SMALL), tools=[{}])
    assert (assignment.target, assignment.left_out) == (SMALL, ("tools",))
    assignment = await chosen(Route("a", SMALL, LARGE), tools=[{}])
    assert (assignment.target, str(assignment.decision)) == (LARGE, "escalated")


async def test_an_image_goes_to_a_model_that_sees():
    assert (await chosen(Route("a", SMALL), messages=IMAGE)).target == HUGE


async def test_what_is_not_known_of_a_model_is_left_to_it():
    unknown = Target("a", 1, 8)
    assert (await chosen(Route("a", unknown), tools=[{}], tool_choice="required")).target == unknown


async def test_only_models_that_meet_the_requirements_of_the_task_are_escalated_to():
    spec = TaskSpec(
        id="t", model="a", requirements=Requirements(capabilities=("function-calling",))
    )
    world = RouterWorld(tasks={"t": spec})
    plain = Target("d", 1, 8, 5000, ("chat",))
    await world.use(
        RouteTable(1, "t", {"t": Route("a", SMALL)}, {"a": SMALL, "b": LARGE, "d": plain})
    )
    sent = Call("r1", "chat/completions", {"messages": LONG}, "auto")
    assert (await world.router.generate(sent))[0].target == LARGE


async def test_a_fallback_whose_context_nobody_knows_is_asked():
    unknown = Target("b", 1, 8)
    world = RouterWorld()
    await world.use(
        RouteTable(1, "t", {"t": Route("a", SMALL, unknown)}, {"a": SMALL, "b": unknown})
    )
    sent = Call("r1", "chat/completions", {"messages": LONG}, "auto")
    assert (await world.router.generate(sent))[0].target == unknown
    world.models["a"].fails_at, world.models["a"].error = 0, ContextExceeded("101 of 100")
    short = Call("r2", "chat/completions", {"messages": SHORT}, "auto")
    assignment, _ = await world.router.generate(short)
    assert (assignment.target, str(assignment.decision)) == (unknown, "escalated")
