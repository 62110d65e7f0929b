"""An A/B test runs by itself: it divides, looks, drops, ends, and gives back what it took."""

import pytest

from hotswap_ray.core.errors import (
    Conflict,
    EngineUnavailable,
    Incompatible,
    InvalidRequest,
    NotFound,
    PreconditionFailed,
)
from tests.worlds.ab_test import (
    ALL_RIGHT,
    HALF,
    SOME,
    SPEC,
    ended,
    events,
    few,
    in_phase,
    many,
)
from tests.worlds.controller import ControllerWorld, make_config
from tests.worlds.seen import seen

TWO = {**SPEC, "variants": ["b", "c"], "weights": [0.3, 0.2]}


@pytest.fixture
async def world(tmp_path):
    made = ControllerWorld(tmp_path)
    made.learning.rollouts = few(HALF, HALF)
    await made.start()
    return made


async def running(world, spec=SPEC, task="t", **more):
    """A test that is under way."""
    record = await world.controller.ab_test(task, {**spec, **more}, f"test-{task}")
    await in_phase(world, record["id"], "running")
    return record["id"]


async def test_it_ends_with_the_better_model_and_leaves_nothing_behind(world):
    test = await running(world)
    split = world.table.routes["t"].split
    assert (split.salt, split.weights, split.decision) == (test, (0.5,), "ab_test")
    assert world.controller._pool.is_ready("b")
    world.learning.rollouts = many(HALF, ALL_RIGHT)
    record = await ended(world, test)
    assert (record["reason"], record["report"]["winner"]) == ("better", "b")
    assert record["report"]["sentence"].startswith("b is better than a by +0.5")
    assert record["history"]["b"]
    assert world.table.routes["t"].split is None
    assert world.model_of("t") == "a"
    assert world.nothing_is_left_of("b")
    assert world.fleet.harm == []
    phases = [event["phase"] for event in await events(world)]
    assert phases == ["preparing", "settling", "running", "ending", "closing", "ended"]


async def test_a_proven_winner_may_get_the_task(world):
    test = await running(world, on_end="promote")
    world.learning.rollouts = many(HALF, ALL_RIGHT)
    record = await ended(world, test)
    assert record["swap_id"] == f"promote-{test}"
    swap = await world.controller.wait(record["swap_id"], 10)
    assert (swap["phase"], swap["requested_by"]) == ("succeeded", f"ab-test:{test}")
    assert world.model_of("t") == "b"
    assert world.controller._pool.is_ready("b")


async def test_a_winner_whose_swap_fails_is_let_go_by_the_swap(tmp_path):
    canary = {"settle_s": 0, "check_s": 0.05, "steps": [{"weight": 0.5, "min_requests": 1000}]}
    world = ControllerWorld(tmp_path, make_config(canary=canary))
    world.learning.rollouts = many(HALF, ALL_RIGHT)
    await world.start()
    test = (await world.controller.ab_test("t", {**SPEC, "on_end": "promote"}))["id"]
    swap_id = (await ended(world, test))["swap_id"]
    await world.in_phase(swap_id, "canary")
    assert world.controller._pool.is_ready("b")  # the test left it to the swap
    await world.controller.signal(swap_id, "abort")
    assert (await world.controller.wait(swap_id, 10))["phase"] == "failed"
    assert world.model_of("t") == "a"
    assert world.nothing_is_left_of("b")


async def test_a_harmful_variant_is_out_in_one_commit_and_the_others_go_on(world):
    world.learning.rollouts = few(HALF, HALF, HALF)
    test = await running(world, TWO)
    version = world.table.version
    world.learning.rollouts = lambda since_s: [
        *many(ALL_RIGHT, SOME)(since_s),
        *few(ALL_RIGHT)(since_s),
    ]
    await world.until(lambda: world.table.routes["t"].split.shares[0].out)
    assert world.table.version == version + 1
    split = world.table.routes["t"].split
    assert (split.shares[1].out, split.weights) == (False, (0.3, 0.2))
    record = await world.controller.ab_test_report(test)
    assert record["phase"] == "running"
    assert "worse than a" in record["dropped"]["b"]
    assert record["weights"] == {"b": 0.0, "c": 0.2}
    assert {"dropped": "b"}.items() <= (await events(world))[-1].items()
    await world.controller.stop_ab_test(test)
    await ended(world, test)


async def test_all_variants_out_ends_it(world):
    test = await running(world)
    world.learning.rollouts = many(ALL_RIGHT, SOME)
    record = await ended(world, test)
    assert (record["reason"], record["report"]["winner"]) == ("worse", None)


async def test_adaptive_weights_follow_the_results(world):
    spec = {**TWO, "weights": [], "adaptive": True, "adapt_s": 0.05}
    world.learning.rollouts = few(HALF, HALF, HALF)
    test = await running(world, spec)
    assert world.table.routes["t"].split.weights == pytest.approx((1 / 3, 1 / 3))
    mostly = [1.0, 1.0, 0.0]
    world.learning.rollouts = lambda since_s: [seen(30, quality=p) for p in (mostly, HALF, mostly)]
    world.clock.now_s += 1
    await world.until(lambda: world.table.routes["t"].split.weights[0] < 0.33)
    weights = world.table.routes["t"].split.weights
    assert weights[1] > weights[0]
    await world.controller.stop_ab_test(test)
    await ended(world, test)


async def test_what_cannot_be_is_refused_at_once_with_the_reason(world):
    begin = world.controller.ab_test
    with pytest.raises(InvalidRequest, match="'a' serves task 't'"):
        await begin("t", {**SPEC, "variants": ["a"]})
    with pytest.raises(NotFound, match="unknown model 'bb'"):
        await begin("t", {**SPEC, "variants": ["bb"]})
    with pytest.raises(NotFound, match="unknown task"):
        await begin("nothing", SPEC)
    with pytest.raises(InvalidRequest, match="weights"):
        await begin("t", {**SPEC, "weights": [0.5, 0.6]})
    with pytest.raises(InvalidRequest, match="id of an A/B test"):
        await begin("t", SPEC, "a b")
    with pytest.raises(NotFound, match="unknown A/B test"):
        await world.controller.ab_test_report("nobody")
    assert await world.controller.ab_tests() == []


async def test_an_incompatible_variant_is_refused(tmp_path):
    tasks = {"t": {"model": "a", "requirements": {"context_tokens": 4096}}}
    models = {"a": {"context_tokens": 8192}, "b": {"context_tokens": 512}}
    world = ControllerWorld(tmp_path, make_config(models, tasks))
    await world.start()
    with pytest.raises(Incompatible, match="b may not replace a for t"):
        await world.controller.ab_test("t", SPEC)


async def test_a_task_has_one_test_or_one_swap_at_a_time(world):
    test = await running(world)
    same = await world.controller.ab_test("t", SPEC, test)
    assert same["id"] == test
    with pytest.raises(Conflict, match="is another one"):
        await world.controller.ab_test("u", SPEC, test)
    with pytest.raises(Conflict, match=f"A/B test {test} of task 't' is running; stop it first"):
        await world.controller.ab_test("t", SPEC)
    with pytest.raises(Conflict, match=f"A/B test {test} of task 't'"):
        await world.controller.swap("t", "c")
    plan = await world.controller.swap("t", "c", dry_run=True)
    assert not plan["accepted"]
    with pytest.raises(Conflict, match=f"part of open A/B test {test}"):
        await world.controller.unload("b")
    assert world.controller._views.is_swapping("t")
    assert "b" in world.controller._views.kept()
    await world.controller.stop_ab_test(test)
    await ended(world, test)
    swap = await world.controller.swap("t", "c", bake_s=1000)
    with pytest.raises(Conflict, match=f"swap {swap['swap_id']} of task 't'"):
        await world.controller.ab_test("t", SPEC)
    await world.in_phase(swap["swap_id"], "baking")
    await world.controller.signal(swap["swap_id"], "promote")


async def test_an_operator_may_stop_it_and_take_a_variant(world):
    test = await running(world)
    etag = (await world.controller.ab_test_report(test))["etag"]
    with pytest.raises(PreconditionFailed, match="it changed since you looked"):
        await world.controller.stop_ab_test(test, if_match='"old"')
    with pytest.raises(InvalidRequest, match="'c' is no variant"):
        await world.controller.stop_ab_test(test, "c")
    await world.controller.stop_ab_test(test, "b", if_match=f'"{etag}"')
    await world.controller.stop_ab_test(test, "b")  # asked for twice
    record = await ended(world, test)
    assert (record["reason"], record["report"]["state"]) == ("stopped", "ended")
    assert record["report"]["sentence"] == "Stopped before its end, after 12 requests."
    await world.controller.wait(record["swap_id"], 10)
    assert world.model_of("t") == "b"
    with pytest.raises(Conflict, match="is over already"):
        await world.controller.stop_ab_test(test)


async def test_a_rollback_ends_the_test_first(world):
    await world.swap("t", "c")
    world.learning.rollouts = few(HALF, HALF)
    test = await running(world)
    record = await world.controller.rollback("t")
    assert world.table.routes["t"].split is None
    await world.controller.wait(record["swap_id"], 10)
    assert world.model_of("t") == "a"
    assert (await ended(world, test))["reason"] == "stopped"


async def test_while_the_learnings_are_away_it_waits_and_says_so(world):
    test = await running(world)
    world.learning.error = EngineUnavailable("the learning actor restarts")
    run = world.controller._ab_tests._runs[test]
    await world.until(lambda: run.waits)
    record = await world.controller.ab_test_report(test)
    assert (record["phase"], record["dropped"]) == ("running", {})
    assert "the learning actor restarts" in record["waits"]
    world.learning.error = None
    world.learning.rollouts = many(HALF, ALL_RIGHT)
    assert (await ended(world, test))["reason"] == "better"


async def test_while_the_store_refuses_traffic_goes_on_as_it_was(world):
    test = await running(world)
    run = world.controller._ab_tests._runs[test]
    world.store.refuses = True
    world.learning.rollouts = many(HALF, ALL_RIGHT)
    await world.until(lambda: "locked" in run.waits)
    assert world.table.routes["t"].split.weights == (0.5,)
    world.store.refuses = False
    assert (await ended(world, test))["reason"] == "better"


@pytest.mark.parametrize("trouble", ["raise", "broken", "wrong"])
async def test_a_variant_that_does_not_come_up_is_dropped_with_the_reason(world, trouble):
    if trouble == "wrong":
        world.fleet.scripts["b"].answer = "nonsense"
    else:
        world.fleet.scripts["b"].load = trouble
    world.learning.rollouts = few(HALF, HALF, HALF)
    test = await running(world, TWO)
    record = await world.controller.ab_test_report(test)
    told = {"raise": "load_failed", "broken": "engine_unavailable", "wrong": "golden prompts"}
    assert told[trouble] in record["dropped"]["b"]
    assert world.table.routes["t"].split.weights == (0.0, 0.2)
    await world.controller.stop_ab_test(test)
    await ended(world, test)
    assert world.nothing_is_left_of("b")
    assert world.nothing_is_left_of("c")


async def test_a_test_without_a_variant_that_comes_up_ends_at_once(world):
    world.fleet.scripts["b"].load = "raise"
    record = await world.controller.ab_test("t", SPEC)
    record = await ended(world, record["id"])
    assert "load_failed" in record["dropped"]["b"]
    assert world.table.routes["t"].split is None


async def lose(world, model):
    """A model goes although a test has it."""
    generation = world.controller._pool.generations[model]
    await world.controller._pool._withdraw(generation)
    await world.controller._pool._remove(generation)


async def test_a_variant_that_is_lost_comes_back(world):
    test = await running(world)
    await lose(world, "b")
    assert world.table.routes["t"].split.shares[0].out
    await world.until(lambda: not world.table.routes["t"].split.shares[0].out)
    share = world.table.routes["t"].split.shares[0]
    assert (share.target.generation, share.weight) == (2, 0.5)
    assert (await world.controller.ab_test_report(test))["dropped"] == {}
    await world.controller.stop_ab_test(test)
    await ended(world, test)


async def test_a_variant_that_is_lost_and_does_not_come_back_is_dropped(world):
    test = await running(world)
    world.fleet.scripts["b"].load = "raise"
    await lose(world, "b")
    record = await ended(world, test)
    assert "load_failed" in record["dropped"]["b"]


async def test_models_that_were_there_before_stay(world):
    await world.controller.load("b")
    test = await running(world)
    await world.controller.stop_ab_test(test)
    await ended(world, test)
    assert world.controller._pool.is_ready("b")


async def test_the_list_has_the_newest_first(world):
    first = await running(world)
    world.clock.now_s += 1
    second = await running(world, task="u")
    rows = await world.controller.ab_tests()
    assert [row["id"] for row in rows] == [second, first]
    assert rows[0]["variants"] == ["b"]
    assert [row["id"] for row in await world.controller.ab_tests("t")] == [first]
    for test in (first, second):  # the last one that has a model gives it back
        assert world.controller._pool.is_ready("b")
        await world.controller.stop_ab_test(test)
        await ended(world, test)
    assert world.nothing_is_left_of("b")
