"""The loop that swaps by itself: what it does with a finding, and what it leaves alone."""

import asyncio
from itertools import pairwise

import pytest

from hotswap_ray.actors import autoswap_loop
from hotswap_ray.actors.autoswap_loop import REFUSED_S
from hotswap_ray.core.autoswap import Choice
from hotswap_ray.core.errors import EngineUnavailable
from hotswap_ray.core.task_view import Alarm, Finding, Look
from tests.unit.world import make_config, make_world, quick_polls

GOLDEN = {"prompt": "say right", "check": {"kind": "contains", "value": "right"}}


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    quick_polls(monkeypatch)
    monkeypatch.setattr(autoswap_loop, "RETRY_S", 0.01)


def settings(mode="on", task=None, models=None, swap=None, **autoswap):
    """Task ``t`` in a mode, looked at often, and ``u``, which nobody decides about."""
    tasks = {
        "t": {
            "model": "a",
            "golden": [GOLDEN],
            "autoswap": {"mode": mode, "look_s": 0.05, **autoswap},
            **(task or {}),
        },
        "u": {"model": "a"},
    }
    return make_config(models, tasks, **(swap or {}))


def finding(action="promote", model="b", reason="better", active="a", task="t", applies=True):
    return Finding(Choice(task, action, reason, active, model, applies), {})


def look(*findings, alarms=()):
    return Look(findings, tuple(alarms))


def once(*findings):
    """Findings that hold while the models of their tasks serve."""

    def found(views):
        active = {view.task: view.active for view in views}
        return look(*(f for f in findings if active.get(f.choice.task) == f.choice.active))

    return found


async def looks(world, count=3):
    """So many looks later."""
    goal = world.learning.looks + count
    await world.until(lambda: world.learning.looks >= goal)


async def swap_by_itself(world, phase="succeeded"):
    """The first swap, when it is in a phase."""
    await world.until(world.store.load_swaps)
    (record,) = world.store.load_swaps()
    await world.in_phase(record["swap_id"], phase)
    return await world.controller.wait(record["swap_id"], 0)


def view_of(world, task="t"):
    return next(view for view in world.learning.views if view.task == task)


def kept(world, action="promote", task="t"):
    return [row for row in world.store.load_decisions(task) if row["action"] == action]


def facts(world, kind):
    return [row["doc"] for row in world.store.load_events(limit=1000) if row["kind"] == kind]


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


# --- what goes wrong -------------------------------------------------------------------------


@pytest.mark.parametrize("trouble", [{"answer": "wrong"}, {"load": "raise"}], ids=str)
async def test_a_model_whose_swap_failed_is_let_in_again_after_a_while(tmp_path, trouble):
    world = await make_world(tmp_path, settings(cooldown_s=0))
    for name, value in trouble.items():
        setattr(world.fleet.scripts["b"], name, value)
    world.learning.found = once(finding())
    record = await swap_by_itself(world, "failed")
    world.learning.found = None
    await world.until(lambda: "b" not in view_of(world).candidates)
    assert view_of(world).candidates == ("c",)
    assert "b" not in view_of(world, "t").candidates
    assert "b" in view_of(world, "u").candidates  # it may well do for another task
    world.clock.now_s += REFUSED_S - 1
    await looks(world)
    assert view_of(world).candidates == ("c",)
    world.clock.now_s += 2
    await world.until(lambda: view_of(world).candidates == ("b", "c"))
    assert record["from_model"] == world.model_of("t") == "a"


async def test_a_longer_cooldown_keeps_a_failed_model_out_as_long(tmp_path):
    world = await make_world(tmp_path, settings(cooldown_s=1000))
    world.fleet.scripts["b"].answer = "wrong"
    world.learning.found = once(finding())
    await swap_by_itself(world, "failed")
    world.learning.found = None
    world.clock.now_s += 999
    await looks(world)
    assert view_of(world).candidates == ("c",)
    world.clock.now_s += 2
    await world.until(lambda: view_of(world).candidates == ("b", "c"))


async def test_a_swap_that_is_refused_is_an_event_and_the_loop_goes_on(tmp_path):
    world = await make_world(tmp_path, settings())
    world.learning.found = look(finding(model="nobody"), finding("stay", None, "off", task="u"))
    await world.until(lambda: facts(world, "autoswap_refused"))
    (fact, *_) = facts(world, "autoswap_refused")
    assert (fact["task"], fact["model"]) == ("t", "nobody")
    assert "unknown model 'nobody'" in fact["error"]
    assert "was refused" in (await world.controller.status())["last_error"]
    await world.until(lambda: world.store.load_decisions("u"))  # the rest of the look too
    world.learning.found = once(finding())
    await world.until(lambda: world.model_of("t") == "b")


async def test_a_conflict_is_an_event_and_the_loop_goes_on(tmp_path):
    world = await make_world(tmp_path, settings())
    world.fleet.scripts["b"].load_s = 600
    load = asyncio.create_task(world.controller.load("b"))
    await world.until(lambda: world.loaded().get("b") == "loading")
    world.learning.found = once(finding())
    await world.until(lambda: facts(world, "autoswap_refused"))
    assert "b' is loading" in facts(world, "autoswap_refused")[0]["error"]
    load.cancel()  # one load at a time: c waits for the end of this one
    world.learning.found = once(finding(model="c"))
    await world.until(lambda: world.model_of("t") == "c")


async def test_an_incompatible_model_fails_its_swap_before_anything_is_loaded(tmp_path):
    config = settings(task={"requirements": {"capabilities": ["vision"]}})
    world = await make_world(tmp_path, config)
    world.learning.found = once(finding())
    record = await swap_by_itself(world, "failed")
    assert record["error"].startswith("incompatible")
    assert [app for verb, app in world.fleet.log if verb == "deploy"] == ["m-a-g1"]


async def test_without_a_record_no_swap_is_begun_and_then_the_loop_goes_on(tmp_path):
    world = await make_world(tmp_path, settings())
    await looks(world, 1)
    world.store.refuses = True
    world.learning.found = once(finding())
    await world.until(lambda: "autoswap waits" in world.controller._runner.last_error)
    await looks(world)
    assert world.controller._runner.open() == []
    world.store.refuses = False
    record = await swap_by_itself(world)
    assert [row["swap_id"] for row in kept(world)] == [record["swap_id"]]


async def test_a_store_that_refuses_the_swap_itself_says_nothing_about_the_model(tmp_path):
    world = await make_world(tmp_path, settings())

    def refuse():
        world.store.refuses = bool(kept_quietly())

    def kept_quietly():
        world.store.refuses = False
        return [row for row in world.store.load_decisions("t") if row["swap_id"]]

    world.store.after_commit = refuse
    world.learning.found = once(finding())
    await world.until(lambda: "autoswap waits" in world.controller._runner.last_error)
    world.store.after_commit = None
    world.store.refuses = False
    record = await swap_by_itself(world)
    assert record["to_model"] == "b"
    assert facts(world, "autoswap_refused") == []
    assert kept(world)[0]["swap_id"] == record["swap_id"]  # decided anew
    assert len({row["swap_id"] for row in kept(world)}) == len(kept(world)) == 2


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ValueError("what?"), "autoswap failed: ValueError: what?"),
        (EngineUnavailable("the learning actor is away"), "autoswap waits: the learning actor"),
    ],
)
async def test_a_look_that_fails_is_shown_and_not_the_last_one(tmp_path, error, text):
    world = await make_world(tmp_path, settings())
    world.learning.error = error
    await world.until(lambda: world.controller._runner.last_error)
    assert (await world.controller.status())["last_error"].startswith(text)
    world.learning.error = None
    world.learning.found = once(finding())
    await world.until(lambda: world.model_of("t") == "b")


async def test_alarms_become_events_also_when_the_store_refuses_first(tmp_path):
    world = await make_world(tmp_path, settings())
    alarms = [Alarm("t", "a", 0.51239), Alarm("t", "b", 0.2)]

    def found(views):
        world.learning.found = None
        world.store.refuses = True
        return look(alarms=alarms)

    world.learning.found = found
    await world.until(lambda: "autoswap waits" in world.controller._runner.last_error)
    world.store.refuses = False
    await world.until(lambda: len(facts(world, "drift")) == 2)
    await looks(world)
    assert facts(world, "drift") == [
        {"task": "t", "model": "a", "recent": 0.5124},
        {"task": "t", "model": "b", "recent": 0.2},
    ]


# --- unloading -------------------------------------------------------------------------------


def useless(*models):
    return [finding("unload", model, "useless_everywhere", "", "") for model in models]


async def test_what_is_of_no_use_is_unloaded_once_and_its_reason_kept(tmp_path):
    world = await make_world(tmp_path, settings())
    for model in "bc":
        await world.controller.load(model)
    await world.until(lambda: world.fleet.ingress["i0"].table.models["c"])
    world.fleet.ingress["i0"].in_flight["m-b-g1"] = 1  # holds the unload up
    world.learning.found = look(*useless("b", "c"))
    await world.until(lambda: world.nothing_is_left_of("c"))
    await looks(world)
    rows = world.store.load_decisions("")
    assert sorted(row["model"] for row in rows) == ["b", "c"]
    assert rows[0]["sentence"].endswith("proven no gain at every task that may use it.")
    await world.fleet.ingress["i0"].finish("m-b-g1")
    await world.until(lambda: world.nothing_is_left_of("b"))
    assert world.fleet.harm == []
    # Loaded by hand and useless again: that is another decision.
    world.learning.found = None
    await world.controller.load("b")
    world.learning.found = look(*useless("b"))
    await world.until(lambda: world.nothing_is_left_of("b"))
    assert len(world.store.load_decisions("")) == 3


async def test_a_model_that_somebody_uses_by_now_is_not_unloaded(tmp_path):
    config = settings(models={"c": {"resident": True}})
    world = await make_world(tmp_path, config)
    await world.until(lambda: world.loaded().get("c") == "ready")
    swap_id = await world.swap_until("baking", "u", "b", bake_s=600)
    world.learning.found = look(*useless("b", "c", "nobody"))
    await looks(world)
    assert world.store.load_decisions("") == []
    assert world.loaded() == {"a": "ready", "b": "ready", "c": "ready"}
    await world.controller.signal(swap_id, "promote")


async def test_an_unload_that_is_refused_is_shown_and_not_tried_again_at_once(tmp_path):
    world = await make_world(tmp_path, settings())
    world.learning.found = look(*useless("a"))  # it serves; nobody should have said so
    await world.until(lambda: world.controller._runner.last_error)
    await looks(world)
    assert (
        "model a is not unloaded: model 'a' serves t, u"
        in ((await world.controller.status())["last_error"])
    )
    assert len(world.store.load_decisions("")) == 1
    assert world.loaded() == {"a": "ready"}
    world.clock.now_s += REFUSED_S + 1
    await world.until(lambda: len(world.store.load_decisions("")) == 2)
