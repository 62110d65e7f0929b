"""A candidate gets a share, is compared with the active model, and goes on or goes back."""

import asyncio
from dataclasses import replace

import numpy as np
import pytest

from hotswap_ray.core.errors import EngineUnavailable, IllegalTransition, InvalidRequest
from hotswap_ray.core.spec.rollout import CanarySpec, plan_of
from tests.worlds.controller import ControllerWorld, make_config
from tests.worlds.seen import seen
from tests.worlds.until import until

PLAN = {"settle_s": 0, "check_s": 0.05, "steps": [{"weight": 0.1}, {"weight": 0.5}]}


@pytest.fixture
async def world(tmp_path):
    made = ControllerWorld(tmp_path, make_config(canary=PLAN))
    made.learning.rollouts = lambda since_s: (seen(200), seen(40))
    await made.start()
    return made


def canary(world, record):
    return dict(world.controller._runner._swaps[record["swap_id"]].facts.get("canary", {}))


async def begin(world, **options):
    record = await world.controller.swap("t", "b", **options)
    await until(lambda: "checks" in canary(world, record))
    return record


async def test_a_good_candidate_takes_every_step_and_then_the_task(world):
    weights = []
    table = world.controller._publisher

    async def watch():
        while True:
            split = table.table.routes["t"].split
            if split and (not weights or weights[-1] != split.weights[0]):
                weights.append(split.weights[0])
            await asyncio.sleep(0)

    watching = asyncio.create_task(watch())
    record = await world.controller.swap("t", "b")
    ended = await world.controller.wait(record["swap_id"], 10)
    watching.cancel()
    assert (ended["phase"], world.model_of("t")) == ("succeeded", "b")
    assert weights == [0.0, 0.1, 0.5]
    assert world.table.routes["t"].split is None


async def test_a_candidate_that_is_worse_is_out_and_says_why(world):
    world.learning.rollouts = lambda since_s: (seen(900), seen(60, failures=20))
    record = await world.controller.swap("t", "b")
    ended = await world.controller.wait(record["swap_id"], 10)
    assert ended["phase"] == "failed"
    assert "b at 10%: error_rate: failures 0.333 against 0.000" in ended["error"]
    assert world.model_of("t") == "a"
    assert world.table.routes["t"].split is None
    assert world.nothing_is_left_of("b")


async def test_a_dry_run_only_reports(world):
    world.learning.rollouts = lambda since_s: (seen(900), seen(60, failures=20))
    world.controller._requests._config = make_config(canary={**PLAN, "dry_run": True})
    record = await world.controller.swap("t", "b")
    ended = await world.controller.wait(record["swap_id"], 10)
    assert ended["phase"] == "succeeded"
    assert ended["facts"]["canary"]["checks"][0]["result"] == "failed"


async def test_a_paused_canary_keeps_its_share_until_it_is_resumed(world):
    world.learning.rollouts = lambda since_s: (seen(5), seen(1))
    record = await begin(world)
    await world.controller.signal(record["swap_id"], "pause")
    world.learning.rollouts = lambda since_s: (seen(200), seen(40))
    assert (await world.controller.wait(record["swap_id"], 0.3))["facts"]["paused"] == "by operator"
    assert world.table.routes["t"].split.weights[0] == 0.1
    await world.controller.signal(record["swap_id"], "resume")
    assert (await world.controller.wait(record["swap_id"], 10))["phase"] == "succeeded"


@pytest.mark.parametrize(("event", "model"), [("promote", "b"), ("abort", "a")])
async def test_an_operator_may_end_a_canary_either_way(world, event, model):
    world.learning.rollouts = lambda since_s: (seen(5), seen(1))
    record = await begin(world)
    await world.controller.signal(record["swap_id"], event)
    await world.controller.wait(record["swap_id"], 10)
    assert world.model_of("t") == model
    assert world.table.routes["t"].split is None


@pytest.mark.parametrize("choice", ["pause", "abort"])
async def test_too_little_traffic_is_a_result_and_no_endless_wait(world, choice):
    world.learning.rollouts = lambda since_s: (seen(5), seen(3))
    config = make_config(canary={**PLAN, "max_step_s": 1, "on_inconclusive": choice})
    world.controller._requests._config = config
    record = await begin(world)
    world.clock.now_s += 10
    if choice == "abort":
        ended = await world.controller.wait(record["swap_id"], 10)
        assert "inconclusive after 10 s" in ended["error"]
    else:
        swaps = world.controller._runner._swaps
        await until(lambda: swaps[record["swap_id"]].facts.get("paused"))
        said = swaps[record["swap_id"]].facts["paused"]
        assert "3 requests of the candidate and 5 of the active model, 20 are needed" in said
        await world.controller.signal(record["swap_id"], "abort")
    assert world.model_of("t") == "a"


async def test_what_cannot_be_measured_rolls_nothing_back(world):
    world.learning.error = None
    broken = EngineUnavailable("the learning actor restarts")

    def rollouts(since_s):
        raise broken

    world.learning.rollouts = rollouts
    record = await begin(world)
    assert canary(world, record)["checks"][0]["result"] == "error"
    assert world.table.routes["t"].split.weights[0] == 0.1
    world.learning.rollouts = lambda since_s: (seen(200), seen(40))
    assert (await world.controller.wait(record["swap_id"], 10))["phase"] == "succeeded"


def down(number, failures, last):
    """Requests of which some fail, among them so many of the last twenty."""
    made = seen(number)
    made.success[: failures - last] = 0
    made.success[number - last :] = 0
    return made


@pytest.mark.parametrize("choice", ["pause", "abort"])
async def test_both_models_failing_keeps_the_active_one(world, choice):
    """Nobody is proven worse; the plan says whether a person decides, or the candidate goes."""
    world.learning.rollouts = lambda since_s: (down(200, 140, 12), down(40, 34, 15))
    config = make_config(canary={**PLAN, "on_inconclusive": choice})
    world.controller._requests._config = config
    record = await begin(world) if choice == "pause" else await world.controller.swap("t", "b")
    said = "both models fail: 60% of the latest 20 requests of the active one, 75% of the other"
    if choice == "abort":
        assert said in (await world.controller.wait(record["swap_id"], 10))["error"]
    else:
        swaps = world.controller._runner._swaps
        await until(lambda: swaps[record["swap_id"]].facts.get("paused") == said)
        await world.controller.signal(record["swap_id"], "abort")
        await world.controller.wait(record["swap_id"], 10)
    assert world.model_of("t") == "a"
    assert world.nothing_is_left_of("b")


async def test_a_candidate_that_is_worse_is_out_even_where_both_fail(world):
    world.learning.rollouts = lambda since_s: (down(900, 460, 12), down(200, 200, 20))
    ended = await world.swap("t", "b")
    assert "error_rate: failures 1.000 against 0.511" in ended["error"]
    assert ended["facts"]["canary"]["checks"][0]["result"] == "failed"  # the numbers are kept


def judged(number, quality):
    return replace(seen(number), quality=np.full(number, quality))


@pytest.mark.parametrize(
    ("result", "old", "new"),
    [
        ("better", judged(200, 0.6), judged(100, 0.9)),
        ("equivalent", judged(800, 0.8), judged(400, 0.8)),
        ("not_worse", judged(400, 0.8), judged(200, 0.81)),
        ("passed", seen(200), seen(40)),
    ],
)
async def test_a_canary_that_passed_says_what_was_proven(world, result, old, new):
    world.learning.rollouts = lambda since_s: (old, new)
    said = (await world.swap("t", "b"))["facts"]["canary"]
    assert said["result"] == result
    assert f"{len(new.success)} requests" in said["sentence"]


async def test_a_second_rollout_of_a_task_is_refused_and_pause_is_for_canaries(world):
    world.learning.rollouts = lambda since_s: (seen(5), seen(1))
    record = await begin(world)
    with pytest.raises(Exception, match="is canary; promote it, roll it back or abort it first"):
        await world.controller.swap("t", "c")
    await world.controller.signal(record["swap_id"], "promote")
    await world.controller.wait(record["swap_id"], 10)
    with pytest.raises(IllegalTransition):
        await world.controller.signal(record["swap_id"], "pause")


async def test_a_restart_goes_on_in_the_step_it_was_in(world):
    world.learning.rollouts = lambda since_s: (seen(200), seen(40, at_s=0.0))  # none in this step
    record = await begin(world)
    first, began_s = world.controller, canary(world, record)["began_s"]
    assert world.table.routes["t"].split.weights[0] == 0.1

    async def dead(*_):
        await asyncio.Event().wait()

    first._runner._save = dead  # it writes nothing more
    for task in asyncio.all_tasks():
        if task.get_name() == f"swap:{record['swap_id']}":
            task.cancel()
    world.clock.now_s += 100
    await world.start()
    assert world.table.routes["t"].split.weights[0] == 0.1
    world.learning.rollouts = lambda since_s: (seen(200), seen(40))
    ended = await world.controller.wait(record["swap_id"], 10)
    assert (ended["phase"], ended["facts"]["canary"]["began_s"]) == ("succeeded", began_s)


def test_a_plan_is_percentages_that_rise():
    assert [s.weight for s in plan_of("5,25,50", CanarySpec()).steps] == [0.05, 0.25, 0.5]
    for text in ("50,25", "5,5", "0", "5,x", "120", ""):
        with pytest.raises(ValueError):
            plan_of(text, CanarySpec())


async def test_a_plan_that_falls_is_refused_at_once(world):
    with pytest.raises(InvalidRequest, match="must rise"):
        await world.controller.swap("t", "b", canary="50,25")


async def test_a_swap_may_bring_its_own_plan(world):
    record = await world.controller.swap("t", "b", canary="100")
    ended = await world.controller.wait(record["swap_id"], 10)
    assert [step["weight"] for step in ended["facts"]["plan"]["steps"]] == [1.0]
    assert ended["phase"] == "succeeded"
