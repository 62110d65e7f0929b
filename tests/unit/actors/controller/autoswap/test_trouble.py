"""The loop that swaps by itself, when models, the store or the learnings fail; and unloading."""

import asyncio

import pytest

from hotswap_ray.actors.controller.autoswap.loop import REFUSED_S
from hotswap_ray.core.autoswap.view import Alarm
from hotswap_ray.core.errors import EngineUnavailable
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


async def test_a_finding_from_before_the_failure_does_not_begin_the_swap_again(tmp_path):
    world = await make_world(tmp_path, settings())
    world.fleet.scripts["b"].answer = "wrong"
    world.learning.found = look(finding())  # whoever may be tried by now
    await swap_by_itself(world, "failed")
    await looks(world)
    assert len(world.store.load_swaps()) == len(kept(world)) == 1


async def test_a_model_that_failed_once_is_gone_back_to_all_the_same(tmp_path):
    """It came up since then: it served until now, and is warm."""
    world = await make_world(tmp_path, settings())
    world.fleet.scripts["b"].answer = "wrong"
    world.learning.found = once(finding())
    await swap_by_itself(world, "failed")
    world.learning.found = None
    world.fleet.scripts["b"].answer = "right"
    await world.swap("t", "b")
    swap_id = await world.swap_until("baking", "t", "c", bake_s=600)
    world.learning.found = once(finding("roll_back", "b", "worse_than_before", active="c"))
    assert (await world.controller.wait(swap_id, 10))["phase"] == "rolled_back"
    assert world.model_of("t") == "b"


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
