"""Who may be tried at a task, as the route table tells the ingress."""

import asyncio

from hotswap_ray.core.spec.price import Price
from tests.worlds.autoswap import looks, settings, view_of
from tests.worlds.controller import ControllerWorld, make_world

CHECKED = {"checks": [{"kind": "contains", "value": "right"}]}


def tried(world, task="t"):
    trial = world.table.routes[task].trial
    return trial and [target.app for target in trial.candidates]


async def with_b(path, *args, **options):
    """A world in which b is loaded beside a."""
    world = await make_world(path, settings(*args, **options))
    await world.controller.load("b")
    return world


async def test_candidates_appear_when_the_mode_goes_on_and_vanish_when_it_goes_off(tmp_path):
    world = await with_b(tmp_path, "off", explore=0.2)
    assert tried(world) is None
    await world.controller.set_autoswap("t", "on")
    await world.until(lambda: tried(world))
    trial = world.table.routes["t"].trial
    assert [target.app for target in trial.candidates] == ["m-b-g1"]
    assert (trial.explore, trial.shadow, trial.by_policy) == (0.2, 0.0, False)
    assert tried(world, "u") is None
    # Each replica has them; a change that is none is not published again.
    await world.until(lambda: world.fleet.ingress["i0"].table.routes["t"].trial == trial)
    version = world.table.version
    await looks(world)
    assert world.table.version == version
    await world.controller.set_autoswap("t", "off")
    await world.until(lambda: tried(world) is None)


async def test_advice_comes_from_copies_only_and_without_copies_from_nobody(tmp_path):
    world = await with_b(tmp_path, "advise", task=CHECKED, explore=0.2, shadow=0.5, serve="policy")
    await world.until(lambda: tried(world))
    trial = world.table.routes["t"].trial
    assert (trial.explore, trial.shadow, trial.by_policy) == (0.0, 0.5, False)

    blind = tmp_path / "blind"
    blind.mkdir()
    world = await with_b(blind, "advise", explore=0.2)
    await looks(world)
    assert tried(world) is None


async def test_where_a_policy_serves_it_gets_every_loaded_candidate(tmp_path):
    world = await with_b(tmp_path, serve="policy")
    await world.controller.load("c")
    await world.until(lambda: tried(world) == ["m-b-g1", "m-c-g1"])
    assert world.table.routes["t"].trial.by_policy
    assert view_of(world).every_arm


async def test_they_vanish_at_the_switch_and_come_back_with_the_old_model_while_it_bakes(tmp_path):
    world = await with_b(tmp_path, swap={"bake_s": 600})
    await world.until(lambda: tried(world))
    switched = []
    save = world.store.commit_swap
    world.store.commit_swap = lambda swap, table: (switched.append(table), save(swap, table))
    swap_id = await world.swap_until("baking", "t", "b")
    assert switched[0]["routes"]["t"]["trial"] is None
    await world.until(lambda: tried(world) == ["m-a-g1"])
    await world.until(lambda: view_of(world).previous == "a")
    await world.controller.signal(swap_id, "promote")
    await world.controller.wait(swap_id, 10)
    await world.until(lambda: view_of(world).previous is None)
    assert tried(world) == ["m-a-g1"]  # u needs it, so it stays loaded and a candidate


async def test_the_old_model_is_guarded_against_although_it_is_no_candidate(tmp_path):
    world = await with_b(tmp_path, candidates=["b", "c"])
    swap_id = await world.swap_until("baking", "t", "b", bake_s=600)
    await world.until(lambda: tried(world) == ["m-a-g1"])
    await world.until(lambda: view_of(world).candidates == ("c", "a"))
    await world.controller.signal(swap_id, "promote")
    await world.until(lambda: view_of(world).candidates == ("c",))
    await world.until(lambda: tried(world) is None)


async def test_a_model_that_is_unloaded_leaves_them_at_once(tmp_path):
    world = await with_b(tmp_path)
    await world.controller.load("c")
    await world.until(lambda: tried(world) == ["m-b-g1", "m-c-g1"])
    world.fleet.ingress["i0"].in_flight["m-b-g1"] = 1
    unload = asyncio.create_task(world.controller.unload("b"))
    await world.until(lambda: world.loaded()["b"] == "draining" and not world.table.models["b"])
    assert tried(world) == ["m-c-g1"]
    await looks(world)
    assert tried(world) == ["m-c-g1"]
    await world.fleet.ingress["i0"].finish("m-b-g1")
    await unload
    assert world.fleet.harm == []
    await world.controller.load("b")
    await world.until(lambda: tried(world) == ["m-b-g2", "m-c-g1"])


async def test_a_model_with_a_smaller_context_is_kept_out_where_compatibility_is_strict(tmp_path):
    sizes = {"a": {"context_tokens": 8192}, "b": {"context_tokens": 2048}}
    for strictness, expected in (("strict", ["m-c-g1"]), ("warn", ["m-b-g1", "m-c-g1"])):
        path = tmp_path / strictness
        path.mkdir()
        models = {**sizes, "c": {"context_tokens": 8192}}
        world = await with_b(path, models=models, swap={"compatibility": strictness})
        await world.controller.load("c")
        await world.until(lambda: tried(world) == expected)  # noqa: B023


async def test_a_model_that_cannot_do_what_the_task_requires_is_never_tried(tmp_path):
    requires = {"requirements": {"capabilities": ["vision"]}}
    able = {"capabilities": ["chat", "vision"]}
    world = await with_b(
        tmp_path, task=requires, models={"a": able}, swap={"compatibility": "warn"}
    )
    await looks(world)
    assert view_of(world).candidates == ()
    assert view_of(world).meets_limits
    assert tried(world) is None


async def test_an_active_model_that_does_not_meet_the_limits_is_said_to(tmp_path):
    requires = {"requirements": {"capabilities": ["vision"]}}
    able = {"capabilities": ["chat", "completions", "vision"]}
    world = await with_b(tmp_path, task=requires, models={"b": able})
    await looks(world, 1)
    assert not view_of(world).meets_limits
    assert view_of(world).candidates == ("b",)


async def test_named_candidates_limit_who_is_tried(tmp_path):
    world = await with_b(tmp_path, candidates=["a", "c"])
    await looks(world)
    assert tried(world) is None
    await world.controller.load("c")
    await world.until(lambda: tried(world) == ["m-c-g1"])


async def test_what_a_candidate_costs_is_told_with_the_views(tmp_path):
    world = ControllerWorld(tmp_path, settings(models={"b": {"usd_per_million_tokens_out": 2.0}}))
    asked = []
    world.learning.look = _noting(world.learning.look, asked)
    await world.start()
    world.fleet.scripts["b"].load_s = 0.01

    def is_loaded():
        return asked and asked[-1][0]["a"].memory_bytes and asked[-1][0]["a"].load_s == 0

    await world.until(is_loaded)  # a look may come while it is still being loaded
    models, kept = asked[-1]
    assert (models["a"].load_s, models["b"].load_s) == (0.0, 30.0)  # b was never seen
    assert models["b"].price == Price(0, 2)
    assert models["a"].memory_bytes == world.fleet.scripts["a"].memory
    assert kept == {"b", "c"}  # not loaded: nothing to unload
    await world.controller.load("b")
    await world.until(lambda: asked[-1][0]["b"].load_s == 0.0)
    assert asked[-1][1] == {"c"}
    await world.controller.unload("b")
    await world.until(lambda: asked[-1][0]["b"].load_s == 0.01)  # as measured


def _noting(look, asked):
    async def noting(views, models, kept, wait_s):
        asked.append((models, kept))
        return await look(views, models, kept, wait_s)

    return noting


async def test_a_table_that_cannot_be_saved_is_tried_again(tmp_path, monkeypatch):
    monkeypatch.setattr("hotswap_ray.actors.controller.autoswap.loop.RETRY_S", 0.01)
    world = await with_b(tmp_path, "off")
    await world.until(lambda: len(world.store.load_decisions()) == 2)
    await world.controller.set_autoswap("t", "on")
    world.store.refuses = True
    await world.until(lambda: "autoswap waits" in world.controller._runner.last_error)
    assert tried(world) is None
    world.store.refuses = False
    await world.until(lambda: tried(world) == ["m-b-g1"])
