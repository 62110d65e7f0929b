"""Whatever order requests, failures, pauses, departures and tables come in, the data path is right.

Held after every sequence: content comes from one model, at most one retry comes before it, every
request ends as one thing at each model it met and is answered by one at most, what is in flight
returns to nothing, and no token is counted twice.
"""

import asyncio
from collections import Counter, defaultdict

from hypothesis import given, settings
from hypothesis import strategies as st

from hotswap_ray.actors.ingress.call import Call
from hotswap_ray.core.errors import (
    ContextExceeded,
    EngineError,
    EngineTimeout,
    EngineUnavailable,
    InvalidRequest,
    Overloaded,
    RequestError,
    Saturated,
)
from hotswap_ray.core.outcome import Ending
from hotswap_ray.core.routing.call_ids import mark_of, signed
from hotswap_ray.core.routing.split import Share, Split
from hotswap_ray.core.routing.table import (
    Trial,
    with_hold,
    with_model,
    with_route,
    with_split,
    with_trials,
)
from tests.worlds.router import FALLBACK, A, B, C, Model, RouterWorld, named

ERRORS = [
    EngineError("broken"),
    EngineUnavailable("gone"),
    EngineTimeout("slow"),
    InvalidRequest("no"),
    ContextExceeded("too long"),
    Overloaded("full", 0.001),
    Overloaded("full", 60.0),
    Saturated("busy"),
    ConnectionResetError("peer"),
]
MODELS = st.sampled_from("abc")
STEPS = st.lists(
    st.one_of(
        st.tuples(
            st.just("ask"),
            st.booleans(),
            st.sampled_from(["auto", "auto:u", "a", "b", "c"]),
            st.sampled_from([None, "s-1", "s-2"]),
            st.sampled_from([None, A, B, C]),
        ),
        st.tuples(st.just("cancel"), st.integers(0, 20)),
        st.tuples(st.just("gate"), MODELS, st.booleans(), st.integers(0, 2)),
        st.tuples(
            st.just("fail"), MODELS, st.sampled_from([None, 0, 1, 9]), st.sampled_from(ERRORS)
        ),
        st.tuples(st.just("switch"), st.sampled_from([A, B, C]), st.booleans()),
        st.tuples(st.just("hold"), st.booleans()),
        st.tuples(st.just("divide"), st.sampled_from([A, B, C, None])),
        st.tuples(st.just("explore"), st.sampled_from([A, B, C, None])),
        st.tuples(st.just("unload"), MODELS),
        st.tuples(st.just("load"), st.sampled_from([A, B, C])),
        st.tuples(st.just("run"), st.integers(1, 5)),
    ),
    max_size=40,
)


class Signed(Model):
    """Writes its name into every piece, and which requests it got."""

    def __init__(self, name):
        super().__init__(name)
        self.pieces = [f"{name}1".encode(), f"{name}2".encode(), (3, 2, 64)]
        self.got = Counter()

    async def generate(self, endpoint, body):
        self.got[body["number"]] += 1
        return await super().generate(endpoint, body)

    async def stream(self, endpoint, body):
        self.got[body["number"]] += 1
        async for piece in super().stream(endpoint, body):
            yield piece


def request(number, model, session, caller):
    messages = [{"role": "user", "content": "hi"}]
    if caller is not None:
        call_id = signed("c1", mark_of(caller.model, caller.generation))
        messages += [
            {"role": "assistant", "tool_calls": [{"id": call_id}]},
            {"role": "tool", "tool_call_id": call_id, "content": "17"},
        ]
    body = {"messages": messages, "number": number}
    return Call(f"r{number}", "chat/completions", body, model, names=named(session))


def change(table, step, args):
    """The table after a step; ``None`` where the step makes no sense."""
    match step:
        case "switch" if table.models[args[0].model] == args[0]:
            return with_route(table, "t", args[0], FALLBACK, proving=args[1])
        case "hold":
            return with_hold(table, "t", args[0])
        case "divide":
            share = args[0] and table.models[args[0].model] and (Share(args[0], 0.5),)
            return with_split(table, "t", Split("s", share) if share else None)
        case "explore" if table.routes["t"].split is None:
            trial = args[0] and table.models[args[0].model] and Trial((args[0],), explore=0.5)
            return with_trials(table, {"t": trial or None})
        case "unload":
            return with_model(table, args[0], None, FALLBACK)
        case "load":
            return with_model(table, args[0].model, args[0], FALLBACK)
    return None


@settings(deadline=None, max_examples=200)
@given(STEPS)
def test_whatever_happens_the_invariants_of_the_data_path_hold(steps):
    async def scenario():
        world = RouterWorld(hold_timeout_s=0.01)
        world.models = {name: Signed(name) for name in "abc"}
        await world.use()
        requests = []

        async def ask(streamed, call):
            if not streamed:
                assignment, body = await world.router.generate(call)
                assert body.decode() == assignment.target.model
                return
            opened = await world.router.open(call)
            model = opened.assignment.target.model
            pieces = [opened.first]
            try:
                async for piece in opened.rest:
                    assert world.router.in_flight[opened.assignment.target.app] > 0
                    pieces.append(piece)
            finally:
                await opened.rest.aclose()
            assert pieces == world.models[model].pieces

        for step, *args in steps:
            match step:
                case "ask":
                    streamed, *rest = args
                    call = request(len(requests), *rest)
                    requests.append(asyncio.create_task(ask(streamed, call)))
                case "cancel":
                    for task in requests[args[0] : args[0] + 1]:
                        task.cancel()
                case "gate":
                    model = world.models[args[0]]
                    model.waits_at = args[2]
                    model.gate.set() if args[1] else model.gate.clear()
                case "fail":
                    model = world.models[args[0]]
                    model.fails_at, model.error = args[1:]
                case "run":
                    for _ in range(args[0]):
                        await asyncio.sleep(0)
                case _:
                    table = change(world.table, step, args)
                    if table is not None:
                        await world.use(table)
            assert all(count > 0 for count in world.router.in_flight.values())
        for model in world.models.values():
            model.gate.set()
        if requests:
            _, late = await asyncio.wait(requests, timeout=5)
            assert not late
        wrong = [
            task.exception()
            for task in requests
            if not task.cancelled()
            and not isinstance(task.exception(), EngineError | RequestError | None)
        ]
        assert not wrong
        assert not world.router.in_flight
        assert world.router._load.clients == world.router._news.waiting == 0
        check_outcomes(world, requests)

    asyncio.run(scenario())


def check_outcomes(world, requests):
    by_request = defaultdict(list)
    for outcome in world.router.recorder.outcomes:
        by_request[outcome.request_id].append(outcome)
    for number, task in enumerate(requests):
        got = {model.name: model.got[number] for model in world.models.values()}
        outcomes = by_request.pop(f"r{number}", [])
        assert sum(got.values()) <= 2  # one retry at most
        sent = [o for o in outcomes if o.model]
        for name, count in got.items():
            # One that had no room had nothing sent, and is recorded all the same.
            here = [o for o in sent if o.model == name]
            assert count <= len(here) <= count + sum(o.end == Ending.SATURATED for o in here)
        assert sum(o.end == Ending.OK for o in outcomes) <= 1
        if not task.cancelled() and task.exception() is None:
            assert [o.end for o in outcomes].count(Ending.OK) == 1
        assert sum(o.tokens_in for o in outcomes) in (0, 3)
        assert all(o.end in set(Ending) for o in outcomes)
    assert not by_request
    for model in world.models.values():
        assert model.calls == model.ended
