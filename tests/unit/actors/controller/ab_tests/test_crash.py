"""A controller that dies anywhere in an A/B test: the next one takes it to the same end."""

from tests.worlds.ab_test import ALL_RIGHT, HALF, SOME, SPEC, ended, many
from tests.worlds.controller import ControllerWorld, make_config
from tests.worlds.crash import crash_after_every_commit

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


def new_world(path):
    world = ControllerWorld(path, make_config())
    world.learning.rollouts = FOUND
    return world


def test_a_crash_after_any_save_leads_to_the_same_end(tmp_path):
    phases = set()

    def check(world):
        record = world.store.load_ab_test("test-1")
        assert (record["reason"], record["report"]["winner"]) == ("better", "b"), record
        assert world.table.routes["t"].split is None
        assert [swap["swap_id"] for swap in world.store.load_swaps()] == ["promote-test-1"]
        assert world.model_of("t") == "b"
        assert "worse than a" in record["dropped"]["c"], record
        assert world.nothing_is_left_of("c")
        assert world.fleet.harm == []
        events = [e["doc"] for e in world.store.load_events(0, 1000) if e["kind"] == "ab_test"]
        entered = [event["phase"] for event in events if {"weights", "dropped"}.isdisjoint(event)]
        assert len(entered) == len(set(entered))  # nothing was done twice
        phases.update(entered)

    crash_after_every_commit(begin, check, tmp_path, new_world, go_on=go_on)
    assert phases == {"preparing", "settling", "ending", "closing", "ended"}
