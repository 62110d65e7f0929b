"""A controller that dies between a decision and the end of its swap: one swap, never two."""

import asyncio

import pytest

from hotswap_ray.actors.controller.autoswap import loop as autoswap_loop
from tests.unit.actors.controller.autoswap.test_loop import finding, once, settings
from tests.unit.actors.controller.swaps.test_recovery import check_history, succession
from tests.worlds.controller import Crash, World, quick_polls

MOST_COMMITS = 40


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    quick_polls(monkeypatch)
    monkeypatch.setattr(autoswap_loop, "RETRY_S", 0.01)


async def settled(world, model):
    """The task has its model, and nothing is open."""
    await world.until(lambda: world.model_of("t") == model)
    runner = world.controller._runner
    await world.until(lambda: not runner.open() and not runner._tasks)


def decide_until_a_crash(path, config, commits, found, model, prepare=None):
    """Let the loop decide, crash after so many commits; whoever is alive then, and if one died."""
    crash, loop = Crash(), asyncio.new_event_loop()
    world = World(path, config)
    loop.run_until_complete(world.start())
    if prepare:
        loop.run_until_complete(prepare(world))
    crash.after(world, commits, loop)
    world.learning.found = found
    work = loop.create_task(settled(world, model))
    work.add_done_callback(lambda _: loop.stop())
    loop.run_forever()
    crash.bury(loop)
    if not crash.happened:
        work.result()
        world.store.after_commit = None
        return world, False
    try:
        with asyncio.Runner() as runner:
            heir = succession(world, path)
            heir.learning.found = found
            runner.run(_go_on(heir, model))
    finally:
        crash.release()
    return heir, True


async def _go_on(heir, model):
    await heir.start()
    await settled(heir, model)


def check_swaps_and_decisions(world, where):
    """Every swap was decided, durably, and no decision led to two."""
    swaps = [row["swap_id"] for row in world.store.load_swaps()]
    asked = [row["swap_id"] for row in world.store.load_decisions("t") if row["swap_id"]]
    assert len(swaps) == len(set(swaps)) == 1, where
    assert swaps[0] in asked, where
    assert len(asked) == len(set(asked)) <= 2, where  # a second where the first led to nothing
    return swaps[0]


def test_a_crash_after_any_save_of_a_promotion_leaves_one_swap(tmp_path):
    config = settings(swap={"bake_s": 0})
    crashes_before_the_swap = 0
    for commits in range(1, MOST_COMMITS):
        path = tmp_path / str(commits)
        path.mkdir()
        world, crashed = decide_until_a_crash(path, config, commits, once(finding()), "b")
        where = f"crash after commit {commits}: {world.store.load_swaps()}"
        swap_id = check_swaps_and_decisions(world, where)
        record = world.store.load_swap(swap_id)
        assert (record["phase"], record["requested_by"]) == ("succeeded", "autoswap"), where
        assert world.fleet.harm == [], where
        assert world.model_of("t") == "b", where
        check_history(world, swap_id)
        asked = [row for row in world.store.load_decisions("t") if row["swap_id"]]
        crashes_before_the_swap += len(asked) == 2
        if not crashed:
            assert crashes_before_the_swap  # the gap between record and swap was hit
            return
    raise AssertionError("the swap has more commits than were tried")


def test_a_crash_after_any_save_of_a_rollback_leaves_one_swap(tmp_path):
    config = settings(swap={"bake_s": 600})
    found = once(finding("roll_back", "a", "worse_than_before", active="b"))

    async def prepare(world):
        await world.swap_until("baking", "t", "b", swap_id="s1")

    for commits in range(1, MOST_COMMITS):
        path = tmp_path / str(commits)
        path.mkdir()
        world, crashed = decide_until_a_crash(path, config, commits, found, "a", prepare)
        where = f"crash after commit {commits}: {world.store.load_swaps()}"
        (record,) = world.store.load_swaps()
        assert record["phase"] == "rolled_back", where
        assert record["error"] == "rollback by autoswap", where
        asked = [r for r in world.store.load_decisions("t") if r["action"] == "roll_back"]
        assert record["facts"]["undo_id"] in [row["swap_id"] for row in asked], where
        assert world.fleet.harm == [], where
        check_history(world, record["swap_id"])
        if not crashed:
            return
    raise AssertionError("the rollback has more commits than were tried")
