"""A task goes back to any model that served it: at once where it is warm, else by a swap."""

import pytest

from hotswap_ray.core.errors import Conflict, NotFound, PreconditionFailed
from hotswap_ray.core.fit.room import Room
from hotswap_ray.core.swap.history import served
from hotswap_ray.core.swap.phases import Phase, Swap
from tests.worlds.controller import ControllerWorld, make_config, make_world
from tests.worlds.crash import crash_after_every_commit
from tests.worlds.fakes import MIB

ONE_CPU = {name: {"resources": {"num_cpus": 1}} for name in "abcd"}
ONE_TASK = {"t": {"model": "a"}}


async def rotated(path, *models, keep_warm=2, total=None, **swap):
    """A world whose task t was served by a and then by each of the models."""
    config = make_config(ONE_CPU, ONE_TASK, keep_warm=keep_warm, **swap)
    world = await make_world(path, config, total=total)
    for model in models:
        assert (await world.swap("t", model))["phase"] == "succeeded"
    return world


async def back(world, to, **options):
    record = await world.controller.rollback("t", to=to, **options)
    return await world.controller.wait(record["swap_id"], 10)


def ready(world):
    return {name for name, state in world.loaded().items() if state == "ready"}


async def test_the_last_models_stay_warm_until_newer_ones_push_them_out(tmp_path):
    world = await rotated(tmp_path, "b", "c")
    assert ready(world) == {"a", "b", "c"}
    await world.swap("t", "d")
    assert ready(world) == {"b", "c", "d"}
    assert world.fleet.harm == []


async def test_by_default_the_old_model_goes(tmp_path):
    world = await make_world(tmp_path, make_config(ONE_CPU, ONE_TASK))
    await world.swap("t", "b")
    assert ready(world) == {"b"}


async def test_a_warm_model_serves_again_after_one_commit_and_no_check(tmp_path):
    golden = {"prompt": "say right", "check": {"kind": "contains", "value": "right"}}
    tasks = {"t": {"model": "a", "golden": [golden]}}
    world = await make_world(tmp_path, make_config(ONE_CPU, tasks, keep_warm=2))
    await world.swap("t", "b")
    await world.swap("t", "c")
    world.fleet.scripts["a"].answer = "wrong"  # would not be validated
    version, log = world.table.version, len(world.fleet.log)
    ended = await back(world, "a")
    assert (ended["phase"], world.model_of("t")) == ("rolled_back", "a")
    assert (world.table.version, world.fleet.log[log:]) == (version + 1, [])
    assert ended["facts"]["rollback_ms"] > 0
    assert ended["reason"] == "back to a, which is warm"
    await back(world, "c")  # and forth: the model that was left is the last that served
    assert world.model_of("t") == "c"
    await world.until(lambda: not world.controller._runner._tasks)  # nothing is left to be retired
    assert ready(world) == {"a", "b", "c"}


async def test_a_model_that_is_gone_is_loaded_and_validated_by_a_swap_without_canary(tmp_path):
    canary = {"steps": [{"weight": 0.5}], "settle_s": 0}
    world = await rotated(tmp_path, keep_warm=0, canary=canary)
    for model in "bc":
        swap_id = await world.swap_until("canary", "t", model)
        await world.controller.signal(swap_id, "promote")
        await world.controller.wait(swap_id, 10)
    ended = await back(world, "a")
    assert (ended["phase"], world.model_of("t")) == ("succeeded", "a")
    assert {"validating", "canary"} <= ended["seconds"].keys()
    assert ended["facts"]["back_to"] == "a"
    assert "canary" not in ended["facts"]


async def test_a_model_loaded_anew_since_it_served_is_validated_again(tmp_path):
    world = await rotated(tmp_path, "b", "c")
    await world.controller.unload("a")
    await world.controller.load("a")
    rows = {row["model"]: row for row in await world.controller.generations("t")}
    assert (rows["a"]["state"], rows["a"]["warm"]) == ("ready", False)
    ended = await back(world, "a")
    assert (ended["phase"], "validating" in ended["seconds"]) == ("succeeded", True)


async def test_generations_are_listed_newest_first_and_survive_a_restart(tmp_path):
    world = await rotated(tmp_path, "b")
    world.clock.now_s += 50
    await world.swap("t", "c")
    await world.swap("t", "d")
    before = await world.controller.generations("t")
    assert [(r["model"], r["serves"], r["warm"]) for r in before] == [
        ("d", True, True),
        ("c", False, True),
        ("b", False, True),
        ("a", False, False),
    ]
    now_s = world.clock.now_s
    assert [r["served_at_s"] for r in before] == [now_s, now_s, now_s - 50, None]
    assert [r["state"] for r in before] == ["ready", "ready", "ready", "unloaded"]
    await world.start()
    assert await world.controller.generations("t") == before
    assert (await back(world, "b"))["phase"] == "rolled_back"
    assert world.model_of("t") == "b"


async def test_after_the_cluster_is_gone_only_what_serves_is_loaded_again(tmp_path):
    world = await rotated(tmp_path, "b", "c")
    world.fleet.apps.clear()
    await world.start()
    await world.until(lambda: ready(world) == {"c"})
    assert [app.spec.id for app in world.fleet.apps.values()] == ["c"]


async def test_an_unknown_way_back_names_the_possible_ones(tmp_path):
    world = await rotated(tmp_path, "b", "c")
    with pytest.raises(NotFound, match="was not served by 'd'; it can go back to: b, a"):
        await world.controller.rollback("t", to="d")
    with pytest.raises(NotFound, match="unknown task"):
        await world.controller.rollback("x", to="a")
    with pytest.raises(Conflict, match="serves task 't' already"):
        await world.controller.rollback("t", to="c")


async def test_a_task_that_was_never_swapped_has_no_way_back(tmp_path):
    world = await rotated(tmp_path)
    (row,) = await world.controller.generations("t")
    assert (row["model"], row["serves"], row["warm"]) == ("a", True, True)
    with pytest.raises(NotFound, match="it had no other model"):
        await world.controller.rollback("t", to="b")


async def test_a_way_back_is_asked_for_once_and_only_if_nobody_was_faster(tmp_path):
    world = await rotated(tmp_path, "b", "c")
    with pytest.raises(PreconditionFailed):
        await back(world, "a", if_match="stale")
    first = await back(world, "a", swap_id="undo-1")
    assert await back(world, "a", swap_id="undo-1") == first
    assert world.model_of("t") == "a"


async def test_while_a_swap_is_open_only_the_model_it_leaves_can_be_gone_back_to(tmp_path):
    world = await rotated(tmp_path, "b")
    swap_id = await world.swap_until("baking", "t", "c", bake_s=600)
    with pytest.raises(Conflict, match="is baking"):
        await world.controller.rollback("t", to="a")
    ended = await back(world, "b")
    assert (ended["swap_id"], ended["phase"]) == (swap_id, "rolled_back")
    assert world.model_of("t") == "b"


async def test_the_oldest_warm_model_goes_when_another_needs_its_room(tmp_path):
    world = await rotated(tmp_path, "b", "c", total=Room(cpus=3, memory_bytes=16 * 1024 * MIB))
    record = await world.swap("t", "d")  # beside c, for a is given up
    assert (record["phase"], record["strategy"]) == ("succeeded", "overlap")
    assert ready(world) == {"b", "c", "d"}
    await world.controller.load("a")  # an operator's model needs room as well
    assert ready(world) == {"a", "c", "d"}
    assert world.fleet.harm == []


async def test_warm_models_are_not_given_up_for_what_would_not_fit_anyway(tmp_path):
    models = {**ONE_CPU, "huge": {"resources": {"num_cpus": 99}}}
    world = await make_world(tmp_path, make_config(models, ONE_TASK, keep_warm=2))
    await world.swap("t", "b")
    failed = await world.swap("t", "huge")
    assert failed["phase"] == "failed"
    assert "no room for huge" in failed["error"]
    assert ready(world) == {"a", "b"}


async def test_what_another_task_uses_or_keeps_is_not_pushed_out(tmp_path):
    tasks = {"t": {"model": "a"}, "u": {"model": "a"}}
    world = await make_world(tmp_path, make_config(ONE_CPU, tasks, keep_warm=1))
    await world.swap("t", "b")
    await world.swap("u", "c")  # u keeps a
    await world.swap("t", "c")  # t keeps b, and lets a go
    assert ready(world) == {"a", "b", "c"}
    await world.swap("u", "d")
    assert ready(world) == {"b", "c", "d"}  # nobody keeps a any more


async def test_a_candidate_that_was_taken_back_is_no_way_back_and_not_kept(tmp_path):
    world = await rotated(tmp_path, "b")
    swap_id = await world.swap_until("baking", "t", "c", bake_s=600)
    await world.controller.signal(swap_id, "rollback")
    await world.until(lambda: ready(world) == {"a", "b"})
    assert [row["model"] for row in await world.controller.generations("t")] == ["b", "a"]


async def test_a_controller_that_dies_on_the_way_back_goes_on(tmp_path):
    world = await rotated(tmp_path, "b", "c")
    facts = {"undoes": "", "back_to": "a"}
    record = Swap("undo-7", "t", "a", 1, "c", 1, Phase.ROLLING_BACK, facts=facts)
    world.store.save_swap(record.to_doc())  # saved, and nothing done yet
    await world.start()
    ended = await world.controller.wait("undo-7", 10)
    assert (ended["phase"], world.model_of("t")) == ("rolled_back", "a")
    assert ready(world) == {"a", "b", "c"}


def test_history_is_of_distinct_models_in_the_order_in_which_they_served():
    def one(number, old, new, phase=Phase.SUCCEEDED):
        return Swap(f"s{number}", "t", old, number, new, number + 1, phase, updated_at_s=number)

    swaps = [
        one(1, "a", "b"),
        one(2, "b", "x", Phase.FAILED),
        one(3, "b", "c"),
        one(4, "a", "c", Phase.ROLLED_BACK),  # from c back to a
        one(5, "a", "x", Phase.LOADING),
    ]
    found = served(swaps[::-1])
    assert [(o.model, o.generation, o.since_s) for o in found] == [
        ("a", 4, 4),
        ("c", 4, 3),
        ("b", 3, 1),
    ]


async def _there_and_back(world):
    for number, model in enumerate("bc"):
        await world.swap("t", model, swap_id=f"s{number}")
    record = await world.controller.rollback("t", to="b", swap_id="undo")
    await world.controller.wait(record["swap_id"], 10)
    await world.until(lambda: not world.controller._runner._tasks)


def test_a_crash_after_every_save_keeps_what_serves_and_the_one_before_it_and_no_more(tmp_path):
    config = make_config(ONE_CPU, ONE_TASK, keep_warm=1)
    lasts = []

    def check(world):
        swaps = [Swap.from_doc(doc) for doc in world.store.load_swaps("t")]
        assert all(swap.phase in (Phase.SUCCEEDED, Phase.ROLLED_BACK) for swap in swaps)
        lasts.append([one.model for one in served(swaps)][:2] or ["a"])
        last = lasts[-1]
        assert (world.model_of("t"), ready(world)) == (last[0], set(last))
        assert {app.spec.id for app in world.fleet.apps.values()} == set(last)
        assert world.fleet.harm == []

    crash_after_every_commit(
        _there_and_back, check, tmp_path, lambda path: ControllerWorld(path, config)
    )
    assert lasts[-1] == ["b", "c"]  # without a crash
