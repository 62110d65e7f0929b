"""What bad luck a rollout may have: each comes to a stated end, and no table is ever illegal."""

import asyncio

import numpy as np
import pytest
from pydantic import ValidationError

from hotswap_ray.actors.controller.swaps import canary as canary_module
from hotswap_ray.actors.ingress import suspects
from hotswap_ray.core.errors import EngineUnavailable
from hotswap_ray.core.routing.split import Share, Split
from hotswap_ray.core.routing.table import with_route, with_split
from tests.worlds.controller import make_config
from tests.worlds.crash import crash_after_every_commit, restart, run_with_crash
from tests.worlds.rollout import BAD, FEW, GOOD, PLAN, Watched, check_end
from tests.worlds.router import A, B, RouterWorld, answer, asked
from tests.worlds.seen import seen


@pytest.fixture(autouse=True)
def quick_retries(monkeypatch):
    monkeypatch.setattr(canary_module, "RETRY_S", 0.005)


@pytest.fixture
async def world(tmp_path):
    made = Watched(tmp_path)
    made.sees(FEW)
    await made.start()
    return made


@pytest.mark.parametrize(
    ("weights", "part"), [((0.5, 0.25), "must rise"), ((0, 0.5), "weight"), ((0.5, 1.5), "weight")]
)
def test_a_configured_canary_whose_steps_fall_or_are_no_shares_is_refused(weights, part):
    with pytest.raises(ValidationError, match=part):
        make_config(canary={"steps": [{"weight": weight} for weight in weights]})


async def test_a_candidate_whose_quality_nobody_reports_waits_and_then_asks_a_person(world):
    """The judge went down in mid-rollout: what was judged before counts, and it is not enough."""
    some = np.r_[np.full(15, 0.9), np.full(25, np.nan)]
    world.sees((seen(200, quality=0.9), seen(40, quality=some)))
    swap_id = await world.canary()
    world.clock.now_s += 3601
    assert "quality inconclusive: 15 requests of the candidate" in await world.paused(swap_id)
    assert world.table.routes["t"].split.weights == (0.01,)
    await world.controller.signal(swap_id, "abort")
    check_end(world, await world.controller.wait(swap_id, 10))


async def test_a_required_quality_that_nobody_ever_reports_asks_a_person(tmp_path):
    world = Watched(tmp_path, make_config(canary={**PLAN, "guardrails": {"required": ["quality"]}}))
    world.sees(GOOD)
    await world.start()
    swap_id = await world.canary()
    world.clock.now_s += 3601
    assert "quality error: nothing was reported" in await world.paused(swap_id)
    assert world.table.routes["t"].split.weights == (0.01,)
    await world.controller.signal(swap_id, "promote")
    check_end(world, await world.controller.wait(swap_id, 10))


async def test_a_judge_that_comes_back_lets_a_rollout_go_on_where_it_was(world):
    world.sees((seen(200, quality=0.9), seen(40, quality=np.r_[np.full(15, 0.9), [np.nan] * 25])))
    swap_id = await world.canary()
    world.sees((seen(200, quality=0.9), seen(40, quality=0.9)))
    record = await world.controller.wait(swap_id, 10)
    assert record["phase"] == "succeeded"
    check_end(world, record)


async def test_learnings_that_are_slow_delay_a_rollout_and_operators_are_heard_meanwhile(world):
    gate = asyncio.Event()
    swap_id = await world.canary()

    async def observed(*_):
        await gate.wait()

    world.learning.observed = observed
    await world.controller.signal(swap_id, "promote")
    record = await world.controller.wait(swap_id, 10)
    assert record["phase"] == "succeeded"
    check_end(world, record)


async def test_traffic_that_stops_is_a_stated_result(tmp_path):
    world = Watched(tmp_path, make_config(canary={**PLAN, "on_inconclusive": "abort"}))
    world.sees((seen(0), seen(0)))
    await world.start()
    swap_id = await world.canary()
    world.clock.now_s += 3601
    record = await world.controller.wait(swap_id, 10)
    said = "inconclusive after 3601 s with 0 requests: error_rate error: nothing was reported"
    assert said in record["error"]
    check_end(world, record)


@pytest.mark.parametrize("commits", range(1, 4))
async def test_a_store_that_is_away_during_a_step_takes_no_share_back(tmp_path, commits):
    world = Watched(tmp_path)
    world.sees(FEW)
    await world.start()
    swap_id = await world.canary()
    began_s, left = world.step_of(swap_id)["began_s"], [commits]

    def hook():
        left[0] -= 1
        if left[0] == 0:
            world.store.refuses = True

    world.store.after_commit = hook
    world.clock.now_s += 5
    world.sees(GOOD)
    await world.until(lambda: "waits for the store" in world.controller._runner.last_error)
    assert world.table.routes["t"].split.weights >= (0.01,)
    world.store.after_commit, world.store.refuses = None, False
    record = await world.controller.wait(swap_id, 10)
    assert (record["phase"], record["facts"]["canary"]["began_s"]) == ("succeeded", began_s)
    check_end(world, record)


async def test_a_clock_that_goes_back_during_a_step_begins_the_step_anew(world):
    """Its requests would else lie before its begin, and the step would last until that time."""
    swap_id = await world.canary()
    world.clock.now_s -= 7200
    await world.until(lambda: world.step_of(swap_id)["step_s"] == world.clock.now_s)
    arrived_s = world.clock.now_s + 1
    world.sees(lambda since_s: (seen(200), seen(40 * (since_s <= arrived_s), at_s=arrived_s)))
    record = await world.controller.wait(swap_id, 10)
    assert record["phase"] == "succeeded"
    assert all(spent_s >= 0 for spent_s in record["seconds"].values())
    check_end(world, record)


async def test_a_configuration_reloaded_in_mid_rollout_changes_no_plan(tmp_path):
    world = Watched(tmp_path)
    world.sees(FEW)
    await world.start()
    swap_id = await world.canary()
    world.store.refuses = True  # the old process writes no more
    strict = {"steps": [{"weight": 0.5, "min_requests": 10**6}], "on_inconclusive": "abort"}
    world.config = make_config(canary={**PLAN, **strict, "max_step_s": 1})
    heir = await restart(world)
    heir.clock.now_s += 10
    await heir.at_step(swap_id, 1)
    heir.learning.rollouts = lambda since_s: GOOD
    record = await heir.controller.wait(swap_id, 10)
    assert (record["phase"], record["facts"]["canary"]["weight"]) == ("succeeded", 0.99)


async def test_a_swap_that_began_without_canary_gets_none_from_a_new_configuration(tmp_path):
    world = Watched(tmp_path, make_config())
    world.fleet.scripts["b"].answer_s = 1
    await world.start()
    swap_id = await world.swap_until("validating", "t", "b")
    world.store.refuses = True
    world.fleet.scripts["b"].answer_s = 0
    world.config = make_config(canary=PLAN)
    heir = await restart(world)
    record = await heir.controller.wait(swap_id, 10)
    assert record["phase"] == "succeeded"
    assert "canary" not in record["facts"]


async def rollout(world):
    world.learning.rollouts = lambda since_s: GOOD
    await world.swap("t", "b", swap_id="s1")


async def failing_rollout(world):
    world.learning.rollouts = lambda since_s: BAD
    await world.swap("t", "b", swap_id="s1")


JOBS = [(rollout, "succeeded"), (failing_rollout, "failed")]


def check_ended(world, phase):
    """The heir of a rollout brought it to its end."""
    record = world.store.load_swap("s1")
    assert record["phase"] == phase, record["error"]
    assert world.model_of("t") == ("b" if phase == "succeeded" else "a")
    assert world.table.routes["t"].split is None
    assert world.fleet.harm == []


@pytest.mark.parametrize(("job", "phase"), JOBS)
def test_a_controller_that_dies_after_any_commit_of_a_rollout_comes_to_the_same_end(
    tmp_path, job, phase
):
    """In each phase and in each step."""
    crash_after_every_commit(job, lambda world: check_ended(world, phase), tmp_path, Watched)


@pytest.mark.parametrize("weight", [0.01, 0.99])
def test_a_controller_that_dies_between_opening_a_step_and_making_it_comes_to_the_same_end(
    tmp_path, weight
):
    def opened(world):
        split = world.saved and world.saved[-1][1].routes["t"].split
        return bool(split) and split.opening == (weight,)

    world, crashed = run_with_crash(Watched(tmp_path), opened, rollout)
    assert crashed
    check_ended(world, "succeeded")


def die(model):
    """Its replica is gone; what comes later gets no answer until it is back."""
    model.fails_at, model.error = 0, EngineUnavailable("its replica died")

    async def ping():
        if model.fails_at is not None:
            raise model.error

    model.ping = ping


@pytest.mark.parametrize("weight", [0.01, 0.99])
async def test_a_candidates_death_costs_no_request_and_the_conversation_goes_on(
    weight, monkeypatch
):
    monkeypatch.setattr(suspects, "AGAIN_S", 0.001)
    router = RouterWorld()
    await router.use(with_split(router.table, "t", Split("rollout-1", (Share(B, weight),))))
    before = [await answer(router, asked(n, f"s{n}")) for n in range(300)]
    assert {model for model, _ in before} == {"a", "b"}
    candidate = router.models["b"]
    die(candidate)
    calls = candidate.calls
    told = [await answer(router, asked(n, f"s{n}")) for n in range(300)]
    assert {model for model, _ in told} == {"a"}
    assert candidate.calls == calls + 1  # nobody else had to wait for it
    assert router.outcomes.count(("b", "canary", False)) == 1
    candidate.fails_at = None
    async with asyncio.timeout(5):
        while "m-b-g1" in router.router._suspects:  # noqa: ASYNC110 - its probe clears it
            await asyncio.sleep(0.002)
    assert [await answer(router, asked(n, f"s{n}")) for n in range(300)] == before


async def test_the_active_models_death_leaves_the_candidates_conversations_alone():
    router = RouterWorld(first_byte_timeout_s=0.1)
    table = with_route(router.table, "t", A, {})  # no fallback
    await router.use(with_split(table, "t", Split("rollout-1", (Share(B, 0.99),))))
    await answer(router, asked(0, "s0"))
    die(router.models["a"])
    told = await asyncio.gather(
        *(answer(router, asked(n, f"s{n}")) for n in range(300)), return_exceptions=True
    )
    lost = [one for one in told if isinstance(one, EngineUnavailable)]
    assert 0 < len(lost) < 10  # those that began on the active model, or would
    assert told.count(("b", "canary")) == 300 - len(lost)
