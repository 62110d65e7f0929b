"""The loop that swaps by itself: what it does with a finding, and what it leaves alone."""

from itertools import pairwise

import pytest

from tests.worlds.autoswap import (
    facts,
    finding,
    kept,
    look,
    looks,
    once,
    settings,
    swap_by_itself,
    view_of,
)
from tests.worlds.controller import make_world

# --- when it looks ---------------------------------------------------------------------------


async def test_while_every_mode_is_off_nobody_is_asked_and_nothing_polls(tmp_path):
    world = await make_world(tmp_path, settings("off"))
    await world.until(lambda: len(world.store.load_decisions()) == 2)
    commits = world.store.commits
    await world.swap("u", "b")
    assert world.learning.views is None
    await world.until(lambda: world.store.load_decisions("u")[0]["active"] == "b")
    assert world.store.commits > commits
    assert {row["reason"] for row in world.store.load_decisions()} == {"off"}


async def test_setting_a_mode_wakes_it_and_off_lets_it_rest_again(tmp_path):
    world = await make_world(tmp_path, settings("off"))
    assert await world.controller.set_autoswap("t", "on") == {"task": "t", "mode": "on"}
    await world.until(lambda: world.learning.views)
    assert [v.settings.mode for v in world.learning.views] == ["on", "off"]
    world.learning.found = look(finding("undecided", None, "no_candidate"))
    await world.until(lambda: kept(world, "undecided"))
    await world.controller.set_autoswap("t", "off")
    await world.until(lambda: world.store.load_decisions("t")[0]["reason"] == "off")
    seen = world.learning.looks
    await world.swap("u", "b")  # much happens meanwhile
    assert world.learning.looks == seen


async def test_a_mode_that_is_set_ends_the_wait_of_a_look(tmp_path):
    world = await make_world(tmp_path, settings("advise", look_s=600))
    await world.until(lambda: world.learning.views)
    await world.controller.set_autoswap("t", "on")
    await world.until(lambda: view_of(world).settings.mode == "on")


# --- what it does ----------------------------------------------------------------------------


async def test_a_promotion_becomes_a_swap_that_carries_the_id_of_its_decision(tmp_path):
    world = await make_world(tmp_path, settings())
    world.learning.found = once(finding())
    record = await swap_by_itself(world)
    assert (record["task"], record["to_model"]) == ("t", "b")
    assert record["requested_by"] == "autoswap"
    (decision,) = kept(world)
    assert decision["swap_id"] == record["swap_id"]
    assert decision["sentence"].startswith("t: b replaces a, proven better")
    (event,) = facts(world, "decision")
    assert (event["task"], event["action"], event["model"]) == ("t", "promote", "b")
    assert event["swap_id"] == record["swap_id"]
    await world.until(lambda: view_of(world).active == "b")
    assert view_of(world).automatic


async def test_the_decision_is_durable_before_the_swap_exists(tmp_path):
    world = await make_world(tmp_path, settings())
    seen = []

    def note():
        seen.append((len(kept(world)), len(world.store.load_swaps())))

    world.store.after_commit = note
    world.learning.found = once(finding())
    await swap_by_itself(world)
    steps = [pair for pair, after in pairwise([*seen, None]) if pair != after]
    assert steps[-2:] == [(1, 0), (1, 1)]


async def test_advice_is_kept_and_nothing_is_done(tmp_path):
    world = await make_world(tmp_path, settings("advise"))
    world.learning.found = once(finding(applies=False))
    await world.until(lambda: kept(world))
    await looks(world)
    assert world.store.load_swaps() == []
    (advice,) = kept(world)
    assert (advice["applies"], advice["swap_id"]) == (False, None)
    assert advice["sentence"].startswith("advice, not done: ")


async def test_a_finding_about_a_route_that_changed_meanwhile_is_dropped(tmp_path):
    world = await make_world(tmp_path, settings())
    world.learning.found = look(finding(active="c"), finding("roll_back", active="c"))
    await looks(world)
    assert world.store.load_swaps() == []
    assert kept(world) == kept(world, "roll_back") == []


@pytest.mark.parametrize("mode", ["off", "advise"])
async def test_a_mode_set_while_a_look_is_under_way_wins_over_what_it_finds(tmp_path, mode):
    world = await make_world(tmp_path, settings(look_s=600))
    world.learning.found = once(finding())
    await world.until(lambda: world.learning.views)
    await world.controller.set_autoswap("t", mode)  # ends the look's wait; it finds b better
    await world.until(lambda: world.learning.looks)
    await world.until(
        lambda: view_of(world).settings.mode == mode or world.store.load_decisions("t")
    )
    assert world.store.load_swaps() == []
    assert kept(world) == []


async def test_while_an_operators_swap_is_at_work_nothing_is_done(tmp_path):
    world = await make_world(tmp_path, settings())
    world.fleet.scripts["b"].load_s = 600
    swap_id = await world.swap_until("loading", "t", "b")
    world.learning.found = look(finding(model="c"), finding("undecided", "c", "testing"))
    await looks(world)
    assert [row["swap_id"] for row in world.store.load_swaps()] == [swap_id]
    assert world.store.load_decisions("t") == []
    assert facts(world, "autoswap_refused") == []
    world.learning.found = None
    await world.controller.signal(swap_id, "abort")
    assert (await world.controller.wait(swap_id, 10))["phase"] == "failed"


async def test_after_an_operators_swap_the_next_look_knows_that_it_was_not_automatic(tmp_path):
    world = await make_world(tmp_path, settings())
    world.learning.found = once(finding())
    await swap_by_itself(world)
    await world.swap("t", "c")
    await world.until(lambda: view_of(world).active == "c")
    assert not view_of(world).automatic


# --- while a swap bakes ----------------------------------------------------------------------


async def test_a_rollback_takes_back_the_swap_that_bakes(tmp_path):
    world = await make_world(tmp_path, settings(swap={"bake_s": 600}))
    world.learning.found = once(finding())
    record = await swap_by_itself(world, "baking")
    await world.until(lambda: view_of(world).previous == "a")
    world.learning.found = once(finding("roll_back", "a", "worse_than_before", active="b"))
    ended = await world.controller.wait(record["swap_id"], 10)
    assert (ended["phase"], ended["error"]) == ("rolled_back", "rollback by autoswap")
    assert world.model_of("t") == "a"
    (decision,) = kept(world, "roll_back")
    assert ended["facts"]["undo_id"] == decision["swap_id"]
    assert len(world.store.load_swaps()) == 1


async def test_the_old_model_counts_as_warm_from_the_moment_it_is_left(tmp_path):
    world = await make_world(tmp_path, settings())
    await world.swap("u", "c")  # a model that others use is never waited for
    world.fleet.ingress["i0"].in_flight["m-a-g1"] = 1
    await world.swap_until("draining", "t", "b", bake_s=600)
    await looks(world)
    assert (view_of(world).active, view_of(world).previous) == ("b", "a")
    await world.fleet.ingress["i0"].finish("m-a-g1")


async def test_an_operators_swap_that_proves_worse_is_rolled_back_too(tmp_path):
    world = await make_world(tmp_path, settings())
    swap_id = await world.swap_until("baking", "t", "b", bake_s=600)
    world.learning.found = once(finding("roll_back", "a", "worse_than_before", active="b"))
    ended = await world.controller.wait(swap_id, 10)
    assert (ended["phase"], ended["requested_by"]) == ("rolled_back", "operator")
    assert ended["error"] == "rollback by autoswap"


async def test_a_promotion_waits_while_another_swap_bakes(tmp_path):
    world = await make_world(tmp_path, settings())
    swap_id = await world.swap_until("baking", "t", "b", bake_s=600)
    world.learning.found = once(finding(model="c", active="b"))
    await looks(world)
    assert (await world.controller.wait(swap_id, 0))["phase"] == "baking"
    assert kept(world) == []
    await world.controller.signal(swap_id, "promote")
    await world.until(lambda: world.model_of("t") == "c")


async def test_a_collapse_ends_the_bake_and_is_swapped_away_from(tmp_path):
    world = await make_world(tmp_path, settings(swap={"bake_s": 600}))
    first = await world.swap_until("baking", "t", "b")
    world.learning.found = once(finding(model="c", reason="collapsed", active="b"))
    assert (await world.controller.wait(first, 10))["phase"] == "succeeded"
    await world.until(lambda: world.model_of("t") == "c")
    (decision,) = kept(world)
    assert decision["reason"] == "collapsed"
