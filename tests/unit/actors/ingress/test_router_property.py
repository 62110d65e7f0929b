"""Whatever order requests, failures and tables come in, the router's counts are right."""

import asyncio

from hypothesis import given, settings
from hypothesis import strategies as st

from hotswap_ray.core.errors import EngineError, Overloaded
from hotswap_ray.core.routing.table import with_hold, with_model
from tests.worlds.router import FALLBACK, A, B, C, RouterWorld, call

STEPS = st.lists(
    st.one_of(
        st.tuples(
            st.just("ask"), st.booleans(), st.sampled_from(["auto", "auto:u", "a", "b", "c"])
        ),
        st.tuples(st.just("cancel"), st.integers(0, 20)),
        st.tuples(st.just("gate"), st.sampled_from("abc"), st.booleans()),
        st.tuples(st.just("fail"), st.sampled_from("abc"), st.sampled_from([None, 0, 1, 9])),
        st.tuples(st.just("switch"), st.sampled_from([A, B, C])),
        st.tuples(st.just("hold"), st.booleans()),
        st.tuples(st.just("unload"), st.sampled_from("abc")),
        st.tuples(st.just("load"), st.sampled_from([A, B, C])),
        st.tuples(st.just("run"), st.integers(1, 5)),
    ),
    max_size=40,
)


@settings(deadline=None, max_examples=150)
@given(STEPS)
def test_whatever_happens_counts_end_at_zero_and_every_call_ends_once(steps):
    async def scenario():
        world = RouterWorld(hold_timeout_s=0.01)
        await world.use()
        requests = []

        async def ask(streamed, model):
            if not streamed:
                return await world.router.generate(call(model))
            opened = await world.router.open(call(model))
            app = opened.assignment.target.app
            try:
                async for _ in opened.rest:
                    assert world.router.in_flight[app] > 0
            finally:
                await opened.rest.aclose()

        for step, *args in steps:
            match step:
                case "ask":
                    requests.append(asyncio.create_task(ask(*args)))
                case "cancel":
                    for request in requests[args[0] : args[0] + 1]:
                        request.cancel()
                case "gate":
                    gate = world.models[args[0]].gate
                    gate.set() if args[1] else gate.clear()
                case "fail":
                    world.models[args[0]].fails_at = args[1]
                case "switch":
                    if world.table.models[args[0].model]:
                        await world.switch(args[0])
                case "hold":
                    await world.use(with_hold(world.table, "t", args[0]))
                case "unload":
                    await world.use(with_model(world.table, args[0], None, FALLBACK))
                case "load":
                    await world.use(with_model(world.table, args[0].model, args[0], FALLBACK))
                case "run":
                    for _ in range(args[0]):
                        await asyncio.sleep(0)
            assert all(count > 0 for count in world.router.in_flight.values())
        for model in world.models.values():
            model.gate.set()
        if requests:
            _, late = await asyncio.wait(requests, timeout=5)
            assert not late
        wrong = [
            request.exception()
            for request in requests
            if not request.cancelled()
            and not isinstance(request.exception(), EngineError | Overloaded | None)
        ]
        assert not wrong
        assert not world.router.in_flight
        assert world.router._load.clients == world.router._news.waiting == 0
        for model in world.models.values():
            assert model.calls == model.ended
            of_model = [o for o in world.router.recorder.outcomes if o.model == model.name]
            assert len(of_model) <= model.calls

    asyncio.run(scenario())
