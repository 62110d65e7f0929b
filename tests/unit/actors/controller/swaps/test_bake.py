"""After the switch the guardrails go on: who breaches one goes back, if anybody can take over."""

import asyncio

import pytest

from hotswap_ray.core.errors import EngineUnavailable
from tests.worlds.controller import make_config, make_world
from tests.worlds.seen import seen

HOUR_S = 3600


async def baking(tmp_path, after, before=None, **swap):
    """A world whose task t has just got model b; what b does since is `after`."""
    config = make_config(**{"bake_s": 600, "bake_check_s": 0.05, **swap})
    world = await make_world(tmp_path, config)
    switched_s = world.clock.now_s
    old = before or seen(300, at_s=switched_s - 10)
    world.learning.rollouts = lambda since_s: (old, after(switched_s + 1))
    swap_id = await world.swap_until("baking", "t", "b")
    return world, swap_id


async def facts_of(world, swap_id, condition):
    """Facts of the bake once they fulfil a condition."""
    swaps = world.controller._runner._swaps
    await world.until(
        lambda: (bake := swaps[swap_id].facts.get("bake")) is not None and condition(bake)
    )
    return swaps[swap_id].facts["bake"]


def bad(at_s):
    return seen(60, 20, at_s)


async def test_a_breach_goes_back_in_one_commit_and_says_why(tmp_path):
    config = make_config(bake_s=600, bake_check_s=0.05)
    world = await make_world(tmp_path, config)
    switched_s = world.clock.now_s
    world.learning.rollouts = lambda since_s: (
        seen(300, at_s=switched_s - 10),
        seen(60, at_s=switched_s + 1),
    )
    swap_id = await world.swap_until("baking", "t", "b")
    await facts_of(world, swap_id, lambda bake: bake["requests"] == 60)
    version, log = world.table.version, len(world.fleet.log)
    world.learning.rollouts = lambda since_s: (seen(300, at_s=switched_s - 10), bad(switched_s + 1))
    await world.until(lambda: world.model_of("t") == "a")
    assert world.table.version == version + 1
    assert world.fleet.log[log:] == []  # nothing was loaded for it
    ended = await world.controller.wait(swap_id, 10)
    assert ended["phase"] == "rolled_back"
    assert ended["error"].startswith(
        "validation_failed: b after the switch: error_rate: failures 0.333 against 0.000"
    )
    assert ended["facts"]["rollback_ms"] > 0
    assert ended["facts"]["bake"]["checks"][0]["result"] == "failed"
    events = [row["doc"] for row in world.store.load_events()]
    said = [e["error"] for e in events if e.get("phase") == "rolling_back"]
    assert said == [ended["error"]]
    await world.until(lambda: world.nothing_is_left_of("b"))


async def test_a_good_model_keeps_the_task_and_its_checks_are_recorded(tmp_path):
    world, swap_id = await baking(tmp_path, lambda at_s: seen(60, at_s=at_s), bake_s=0.2)
    ended = await world.controller.wait(swap_id, 10)
    assert (ended["phase"], world.model_of("t")) == ("succeeded", "b")
    assert ended["facts"]["bake"]["requests"] == 60
    results = {one["metric"]: one["result"] for one in ended["facts"]["bake"]["checks"]}
    assert results == {
        "error_rate": "passed",
        "refusal_rate": "passed",
    }  # a slower model was somebody's choice


async def test_only_requests_of_before_and_after_the_switch_are_compared(tmp_path):
    asked = []
    world, swap_id = await baking(
        tmp_path,
        lambda at_s: seen(60, 30, at_s - HOUR_S),  # its canary, say
        before=seen(2000, at_s=1.0),
    )
    rollouts = world.learning.rollouts
    world.learning.rollouts = lambda since_s: asked.append(since_s) or rollouts(since_s)
    found = await facts_of(world, swap_id, lambda bake: len(asked) > 3)
    assert found["requests"] == 0
    assert (
        "0 requests of the candidate and 1000 of the active model" in found["checks"][0]["detail"]
    )
    assert world.model_of("t") == "b"
    assert set(asked) <= {world.clock.now_s, world.clock.now_s - HOUR_S}
    await world.controller.signal(swap_id, "promote")


async def test_what_cannot_be_measured_rolls_nothing_back(tmp_path):
    world, swap_id = await baking(tmp_path, bad, bake_guardrails=None)
    await world.controller.signal(swap_id, "promote")  # null switches them off
    assert world.model_of("t") == "b"

    def broken(since_s):
        raise EngineUnavailable("the learning actor restarts")

    (tmp_path / "two").mkdir()
    world, swap_id = await baking(tmp_path / "two", lambda at_s: seen(60, at_s=at_s))
    world.learning.rollouts = broken
    found = await facts_of(world, swap_id, lambda bake: bake["checks"][0]["result"] == "error")
    assert found["checks"][0]["detail"] == "the learning actor restarts"
    assert (await world.controller.wait(swap_id, 0))["phase"] == "baking"
    await world.controller.signal(swap_id, "rollback")


@pytest.mark.parametrize(
    ("trouble", "said"),
    [
        ("unloaded", "a is not loaded any more"),
        ("dead", "no replica of a runs"),
        ("silent", "a does not answer: "),
    ],
)
async def test_a_breach_keeps_the_new_model_where_the_old_one_cannot_take_over(
    tmp_path, trouble, said
):
    world, swap_id = await baking(tmp_path, lambda at_s: seen(60, at_s=at_s))
    (app,) = [name for name, app in world.fleet.apps.items() if app.spec.id == "a"]
    match trouble:
        case "unloaded":
            world.controller._pool.generations.pop("a")
        case "dead":
            world.fleet.apps[app].running = 0
        case "silent":
            world.fleet.scripts["a"].fails.add("ping")
    rollouts = world.learning.rollouts
    world.learning.rollouts = lambda since_s: (rollouts(since_s)[0], bad(since_s + 1))
    found = await facts_of(world, swap_id, lambda bake: "kept" in bake)
    assert found["kept"].startswith("b is kept in spite of error_rate: failures 0.333")
    assert said in found["kept"]
    assert world.model_of("t") == "b"
    await world.controller.signal(swap_id, "promote")


async def test_a_dry_run_only_reports(tmp_path):
    world, swap_id = await baking(tmp_path, bad, canary={"dry_run": True}, bake_s=0.3)
    ended = await world.controller.wait(swap_id, 10)
    assert (ended["phase"], world.model_of("t")) == ("succeeded", "b")
    assert ended["facts"]["bake"]["checks"][0]["result"] == "failed"


async def test_an_operators_promote_is_not_undone_by_the_breach_that_comes_with_it(tmp_path):
    world, swap_id = await baking(tmp_path, lambda at_s: seen(60, at_s=at_s))
    await facts_of(world, swap_id, lambda bake: bake["requests"] == 60)
    rollouts = world.learning.rollouts
    world.learning.rollouts = lambda since_s: (rollouts(since_s)[0], bad(since_s + 1))
    promoting = asyncio.create_task(world.controller.signal(swap_id, "promote"))
    done = await asyncio.gather(promoting, return_exceptions=True)
    ended = await world.controller.wait(swap_id, 10)
    promoted = not isinstance(done[0], Exception)
    assert ended["phase"] == ("succeeded" if promoted else "rolled_back")
    assert world.model_of("t") == ("b" if promoted else "a")
