"""A controller that dies anywhere in an A/B test: the next one takes it to the same end."""

import asyncio

import pytest

from tests.unit.actors.controller.swaps.test_recovery import succession
from tests.worlds.ab_test import ALL_RIGHT, HALF, SOME, SPEC, ended, many
from tests.worlds.controller import Crash, World, make_config

pytestmark = pytest.mark.usefixtures("quick")
MOST_COMMITS = 60
PROMOTING = {**SPEC, "variants": ["b", "c"], "on_end": "promote"}
FOUND = many([*HALF, 1.0], ALL_RIGHT, SOME)  # b is better, and c is harmful


async def begin(world):
    await world.controller.ab_test("t", PROMOTING, "test-1")
    await finished(world)


async def finished(world):
    record = await ended(world, "test-1")
    await world.controller.wait(record["swap_id"], 10)


async def go_on(heir):
    await heir.start()
    if heir.store.load_ab_test("test-1") is None:
        await heir.controller.ab_test("t", PROMOTING, "test-1")  # nobody was told that it began
    await finished(heir)
    # Begun again by a client that did not hear the answer: the same test.
    assert (await heir.controller.ab_test("t", PROMOTING, "test-1"))["phase"] == "ended"


def run_until_a_crash(path, commits):
    crash, loop = Crash(), asyncio.new_event_loop()
    world = World(path, make_config())
    world.learning.rollouts = FOUND
    loop.run_until_complete(world.start())
    crash.after(world, commits, loop)
    work = loop.create_task(begin(world))
    work.add_done_callback(lambda _: loop.stop())
    loop.run_forever()
    crash.bury(loop)
    if not crash.happened:
        work.result()
        return world, False
    try:
        with asyncio.Runner() as runner:
            heir = succession(world, path)
            heir.learning.rollouts = FOUND
            runner.run(go_on(heir))
    finally:
        crash.release()
    return heir, True


def test_a_crash_after_any_save_leads_to_the_same_end(tmp_path):
    phases = set()
    for commits in range(1, MOST_COMMITS):
        path = tmp_path / str(commits)
        path.mkdir()
        world, crashed = run_until_a_crash(path, commits)
        record = world.store.load_ab_test("test-1")
        where = f"crash after commit {commits}: {record}"
        assert (record["reason"], record["report"]["winner"]) == ("better", "b"), where
        assert world.table.routes["t"].split is None, where
        assert [swap["swap_id"] for swap in world.store.load_swaps()] == ["promote-test-1"], where
        assert world.model_of("t") == "b", where
        assert "worse than a" in record["dropped"]["c"], where
        assert world.nothing_is_left_of("c"), where
        assert world.fleet.harm == [], where
        events = [e["doc"] for e in world.store.load_events(0, 1000) if e["kind"] == "ab_test"]
        entered = [event["phase"] for event in events if {"weights", "dropped"}.isdisjoint(event)]
        assert len(entered) == len(set(entered)), where  # nothing was done twice
        phases |= set(entered)
        if not crashed:
            assert phases == {"preparing", "settling", "ending", "closing", "ended"}
            return
    raise AssertionError("the test has more commits than were tried")
