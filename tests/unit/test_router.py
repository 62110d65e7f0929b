"""The router with connections in this process: who serves, what is counted, what is recorded."""

import asyncio
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hotswap_ray.actors import suspects
from hotswap_ray.actors.router import Call, Router
from hotswap_ray.config import ServerConfig
from hotswap_ray.core.errors import (
    EngineError,
    EngineTimeout,
    EngineUnavailable,
    InvalidRequest,
    NotFound,
    Overloaded,
)
from hotswap_ray.core.routes import Route, RouteTable, Target, with_hold, with_model, with_route

A, B, C = Target("a", 1, 8), Target("b", 1, 8), Target("c", 1, 8)
FALLBACK = {"t": "b"}


class Model:
    """What the connections of one model answer; every call and its end is written down."""

    def __init__(self, name):
        self.name = name
        self.pieces = [b"one ", b"two", (3, 2, 64)]
        self.fails_at = None
        """Piece before which it fails; a whole answer fails at once."""
        self.error = EngineError("broken")
        self.gate = asyncio.Event()
        """Closed: a whole answer, and a stream before each piece from ``waits_at``, waits."""
        self.gate.set()
        self.waits_at = 0
        self.pings = True
        self.calls = 0
        self.ended = 0

    async def generate(self, endpoint, body):
        self.calls += 1
        try:
            await self.gate.wait()
            if self.fails_at is not None:
                raise self.error
            return self.name.encode(), 3, 2, 64
        finally:
            self.ended += 1

    async def stream(self, endpoint, body):
        self.calls += 1
        try:
            for index, piece in enumerate(self.pieces):
                if index >= self.waits_at:
                    await self.gate.wait()
                if index == self.fails_at:
                    raise self.error
                yield piece
            if self.fails_at is not None and self.fails_at >= len(self.pieces):
                raise self.error
        finally:
            self.ended += 1

    async def ping(self):
        if not self.pings:
            await asyncio.Event().wait()
        return {}


class World:
    """A router over recording models, and the table it uses."""

    def __init__(self, **limits):
        self.models = {name: Model(name) for name in "abc"}
        self.connects = Counter()
        self.drained = 0
        self.now_s = 100.0
        self.router = Router(
            ServerConfig(**limits), self.connect, lambda: self.now_s, self.on_drained
        )
        self.table = RouteTable(
            1, "t", {"t": Route("a", A, B), "u": Route("c", C)}, {"a": A, "b": B, "c": C}
        )

    def connect(self, target):
        self.connects[target.app] += 1
        return self.models[target.model]

    def on_drained(self):
        self.drained += 1

    async def use(self, table=None):
        self.table = table or self.table
        return await self.router.apply(self.table)

    async def switch(self, target, task="t"):
        return await self.use(with_route(self.table, task, target, FALLBACK))

    @property
    def outcomes(self):
        return [(o.model, o.decision, o.success) for o in self.router.outcomes]


@pytest.fixture
async def world():
    made = World()
    await made.use()
    return made


def call(model="auto", **changes):
    return Call("r1", "completions", {"prompt": "hi"}, model, **changes)


async def settle():
    """Let everything run that can."""
    for _ in range(20):
        await asyncio.sleep(0)


async def read(opened):
    return [opened.first, *[item async for item in opened.rest]]


async def test_a_whole_answer_and_its_outcome_are_complete(world):
    choice, answer = await world.router.generate(call())
    assert (answer, choice.target, choice.decision) == (b"a", A, "active")
    outcome = world.router.outcomes[0]
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
    outcome = world.router.outcomes[0]
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
    assert opened.choice.target == A
    assert await read(opened) == [b"one ", b"two", (3, 2, 64)]
    assert after.choice.target == B
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
    choice, answer = await request
    assert (choice.target, answer) == (A, b"a")


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
    expected = {"success": [True], "failure": [False], "no model": [False]}
    assert [o.success for o in world.router.outcomes] == expected.get(end, [])


async def test_a_client_that_leaves_while_it_waits_for_the_first_byte_stops_the_model(world):
    model = world.models["a"]
    model.gate.clear()
    request = asyncio.create_task(world.router.open(call()))
    await settle()
    request.cancel()
    await asyncio.wait([request])
    assert (model.calls, model.ended, world.models["b"].calls) == (1, 1, 0)
    assert not world.router.in_flight
    assert not world.router.outcomes


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
        choice = opened.choice
    else:
        choice, answer = await world.router.generate(call())
        assert answer == b"b"
    assert (choice.target, choice.decision) == (B, "fallback")
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
    assert world.router.outcomes[0].ttft_ms is not None


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
    assert not world.router.outcomes
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
    choice, _ = await request
    assert choice.target == again


async def test_a_retry_after_a_swap_goes_to_the_new_active_model(world):
    world.models["a"].gate.clear()
    world.models["a"].fails_at = 0
    request = asyncio.create_task(world.router.generate(call()))
    await settle()
    await world.switch(C)
    world.models["a"].gate.set()
    choice, _ = await request
    assert (choice.target, choice.decision) == (C, "fallback")


async def test_no_first_byte_in_time_sends_the_request_to_the_fallback():
    world = World(first_byte_timeout_s=0.05)
    await world.use()
    world.models["a"].gate.clear()
    opened = await world.router.open(call())
    assert opened.choice.target == B
    assert await read(opened) == [b"one ", b"two", (3, 2, 64)]
    assert world.outcomes == [("a", "active", False), ("b", "fallback", True)]
    assert world.models["a"].ended == 1


async def test_a_stream_that_does_not_end_in_time_is_ended_with_an_error():
    world = World(first_byte_timeout_s=0.05, request_timeout_s=0.1)
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
    world = World(first_byte_timeout_s=0.05, request_timeout_s=0.05)
    await world.use()
    world.models["a"].gate.clear()
    with pytest.raises(EngineTimeout, match=r"no answer within 0\.05 s"):
        await world.router.generate(call())
    assert world.models["b"].calls == 0


async def test_a_slow_reader_between_two_pieces_does_not_trip_a_time_limit_in_its_own_code():
    world = World(first_byte_timeout_s=0.05, request_timeout_s=30)
    await world.use()
    opened = await world.router.open(call())
    await asyncio.sleep(0.06)  # longer than the limit: that is the point
    assert await read(opened) == [b"one ", b"two", (3, 2, 64)]


async def test_a_model_at_its_limit_refuses_with_overloaded_and_says_when_to_come_back(world):
    small = Target("a", 1, 2)
    await world.use(RouteTable(1, "t", {"t": Route("a", small, B)}, {"a": small, "b": B}))
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
    assert world.models["b"].calls == 0


async def test_an_ingress_at_its_limit_refuses_whatever_the_model():
    world = World(max_in_flight=1)
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
    choice, answer = await request
    assert (choice.target, choice.decision, answer) == (B, "active", b"b")


async def test_other_tasks_and_pinned_requests_do_not_wait_for_a_held_route(world):
    await world.use(with_hold(world.table, "t", True))
    assert (await world.router.generate(call("auto:u")))[1] == b"c"
    assert (await world.router.generate(call("b")))[1] == b"b"


async def test_a_route_held_too_long_is_refused_although_the_table_changes_meanwhile():
    world = World(hold_timeout_s=0.1)
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
    world = World(max_held_requests=2)
    await world.use()
    await world.use(with_hold(world.table, "t", True))
    waiting = [asyncio.create_task(world.router.generate(call())) for _ in range(2)]
    await settle()
    with pytest.raises(EngineUnavailable, match="queue is full"):
        await world.router.open(call())
    await world.use(with_hold(world.table, "t", False))
    await asyncio.gather(*waiting)


async def test_a_client_that_leaves_a_held_route_gives_its_place_back():
    world = World(max_held_requests=1)
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


async def test_while_the_active_model_does_not_answer_requests_go_straight_to_the_fallback(
    world, monkeypatch
):
    monkeypatch.setattr(suspects, "AGAIN_S", 0)
    model = world.models["a"]
    model.fails_at, model.error, model.pings = 0, RuntimeError("actor died"), False
    for _ in range(3):
        choice, _ = await world.router.generate(call())
        assert (choice.target, choice.decision) == (B, "fallback")
    assert model.calls == 1
    assert [o.model for o in world.router.outcomes] == ["a", "b", "b", "b"]


async def test_a_model_that_answers_again_gets_its_requests_back(world):
    world.models["a"].fails_at = 0
    world.models["a"].error = EngineUnavailable("lost")
    await world.router.generate(call())
    world.models["a"].fails_at = None
    await settle()
    choice, _ = await world.router.generate(call())
    assert choice.target == A


async def test_without_a_fallback_a_lost_model_is_refused_soon_and_not_waited_for(
    world, monkeypatch
):
    monkeypatch.setattr("hotswap_ray.actors.router.SUSPECT_S", 0.02)
    model = world.models["c"]
    model.fails_at, model.error, model.pings = 0, EngineUnavailable("lost"), False
    with pytest.raises(EngineUnavailable, match="lost"):
        await world.router.generate(call("auto:u"))
    for begin, name in ((world.router.open, "auto:u"), (world.router.generate, "c")):
        with pytest.raises(EngineUnavailable, match="does not answer yet") as caught:
            await begin(call(name))
        assert caught.value.retry_after_s
    assert model.calls == 1


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


async def test_a_known_model_that_is_not_loaded_is_unavailable_not_unknown(world):
    await world.use(with_model(world.table, "c", None, FALLBACK))
    with pytest.raises(EngineUnavailable, match="not loaded"):
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
    choice, _ = await world.router.generate(call(prefer="b"))
    assert (choice.target, choice.decision) == (B, "pinned")
    world.models["b"].fails_at = 0
    choice, _ = await world.router.generate(call(prefer="b"))
    assert (choice.target, choice.decision) == (A, "fallback")


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
        world = World(hold_timeout_s=0.01)
        await world.use()
        requests = []

        async def ask(streamed, model):
            if not streamed:
                return await world.router.generate(call(model))
            opened = await world.router.open(call(model))
            app = opened.choice.target.app
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
        assert world.router._total == world.router._held == 0
        for model in world.models.values():
            assert model.calls == model.ended
            of_model = [o for o in world.router.outcomes if o.model == model.name]
            assert len(of_model) <= model.calls

    asyncio.run(scenario())
