"""A controller that dies between a decision and the end of its swap: one swap, never two."""

from tests.worlds.autoswap import finding, once, settings
from tests.worlds.controller import ControllerWorld
from tests.worlds.crash import check_history, crash_after_every_commit


async def settled(world, model):
    """The task has its model, and nothing is open."""
    await world.until(lambda: world.model_of("t") == model)
    runner = world.controller._runner
    await world.until(lambda: not runner.open() and not runner._tasks)


async def go_on(heir, model):
    await heir.start()
    await settled(heir, model)


def crash_while_deciding(path, config, found, model, check, prepare=None):
    """Let the loop decide and the controller die, until the task has its model."""

    async def decide(world):
        world.learning.found = found
        await settled(world, model)

    crash_after_every_commit(
        decide,
        check,
        path,
        lambda folder: ControllerWorld(folder, config),
        prepare,
        lambda heir: go_on(heir, model),
    )


def check_swaps_and_decisions(world):
    """Every swap was decided, durably, and no decision led to two."""
    swaps = [row["swap_id"] for row in world.store.load_swaps()]
    asked = [row["swap_id"] for row in world.store.load_decisions("t") if row["swap_id"]]
    assert len(swaps) == len(set(swaps)) == 1
    assert swaps[0] in asked
    assert len(asked) == len(set(asked)) <= 2  # a second where the first led to nothing
    return swaps[0]


def test_a_crash_after_any_save_of_a_promotion_leaves_one_swap(tmp_path):
    decided = []

    def check(world):
        swap_id = check_swaps_and_decisions(world)
        record = world.store.load_swap(swap_id)
        assert (record["phase"], record["requested_by"]) == ("succeeded", "autoswap")
        assert world.fleet.harm == []
        assert world.model_of("t") == "b"
        check_history(world, swap_id)
        decided.append(len([row for row in world.store.load_decisions("t") if row["swap_id"]]))

    config = settings(swap={"bake_s": 0})
    crash_while_deciding(tmp_path, config, once(finding()), "b", check)
    assert 2 in decided  # the gap between record and swap was hit


def test_a_crash_after_any_save_of_a_rollback_leaves_one_swap(tmp_path):
    config = settings(swap={"bake_s": 600})
    found = once(finding("roll_back", "a", "worse_than_before", active="b"))

    async def prepare(world):
        await world.swap_until("baking", "t", "b", swap_id="s1")

    def check(world):
        (record,) = world.store.load_swaps()
        assert record["phase"] == "rolled_back"
        assert record["error"] == "rollback by autoswap"
        asked = [r for r in world.store.load_decisions("t") if r["action"] == "roll_back"]
        assert record["facts"]["undo_id"] in [row["swap_id"] for row in asked]
        assert world.fleet.harm == []
        check_history(world, record["swap_id"])

    crash_while_deciding(tmp_path, config, found, "a", check, prepare)
