"""A controller that dies after any of its saves is followed by one that brings the same end."""

import asyncio

import pytest

from hotswap_ray.core.fit.room import Room
from hotswap_ray.core.swap.phases import Phase
from tests.worlds.controller import ControllerWorld, make_config, make_world
from tests.worlds.crash import check_history, crash_after_every_commit, plain_swap, restart
from tests.worlds.fakes import MIB

ALONE = {"t": {"model": "a"}}
GOLDEN = {"prompt": "say right", "check": {"kind": "contains", "value": "right"}}
JUDGED = {"t": {"model": "a", "golden": [GOLDEN]}}


async def swap_and_go_back(world):
    swap_id = await world.swap_until("baking", "t", "b", swap_id="s1", bake_s=600)
    await world.controller.signal(swap_id, "rollback")
    await world.controller.wait(swap_id, 20)
    await world.until(lambda: not world.controller._runner._tasks)


SETTINGS = {
    "overlap": (make_config(tasks=JUDGED), None, {}, "succeeded", "b"),
    "drain_first": (make_config(tasks=JUDGED), Room(1, 0, 9000 * MIB), {}, "succeeded", "b"),
    "sleep": (make_config(tasks=JUDGED, strategy="sleep"), None, {}, "succeeded", "b"),
    "wrong answers after drain_first": (
        make_config(tasks=JUDGED),
        Room(1, 0, 9000 * MIB),
        {"b": {"answer": "?"}},
        "failed",
        "a",
    ),
    "does not load": (make_config(tasks=JUDGED), None, {"b": {"load": "raise"}}, "failed", "a"),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_a_crash_after_every_save_comes_to_the_same_end(tmp_path, name):
    config, total, scripts, phase, model = SETTINGS[name]

    def scripted(path):
        world = ControllerWorld(path, config, total)
        for scripted_model, changes in scripts.items():
            for key, value in changes.items():
                setattr(world.fleet.scripts[scripted_model], key, value)
        return world

    def check(world):
        assert world.store.load_swap("s1")["phase"] == phase
        assert world.fleet.harm == []
        assert world.model_of("t") == model
        assert world.table.routes["t"].active is not None
        assert not world.table.routes["t"].held
        assert world.loaded() == {model: "ready"}
        assert {app.spec.id for app in world.fleet.apps.values()} == {model}
        check_history(world)

    crash_after_every_commit(plain_swap, check, tmp_path, scripted)


def test_a_crash_after_every_save_of_a_rollback_goes_back(tmp_path):
    def check(world):
        phases = check_history(world)
        assert world.fleet.harm == []
        # Before the rollback was asked for, a crash leaves a swap that simply succeeds.
        wanted = "a" if Phase.ROLLING_BACK in phases else "b"
        if wanted == "a":
            assert world.loaded() == {wanted: "ready"}
        assert world.model_of("t") == wanted

    config = make_config(tasks=JUDGED)
    crash_after_every_commit(
        swap_and_go_back, check, tmp_path, lambda path: ControllerWorld(path, config)
    )


async def test_a_model_loaded_at_run_time_is_adopted_or_loaded_again(tmp_path):
    world = await make_world(tmp_path)
    await world.controller.load("newcomer", {"engine": "simulated"})
    heir = await restart(world)
    await heir.until(lambda: heir.table.models["newcomer"])
    assert heir.loaded()["newcomer"] == "ready"
    assert heir.table.models["newcomer"].app == "m-newcomer-g1"

    heir.fleet.apps.clear()  # the whole cluster went
    last = await restart(heir)
    await last.until(lambda: last.table.models["newcomer"])
    assert last.table.models["newcomer"].app == "m-newcomer-g2"


async def test_after_the_loss_of_the_cluster_the_swapped_model_serves_again(tmp_path):
    world = await make_world(tmp_path)
    await world.swap("t", "b")
    world.fleet.apps.clear()
    heir = await restart(world)
    assert heir.model_of("t") == "b"
    assert heir.table.routes["t"].active.app == "m-b-g2"
    assert [row["phase"] for row in await heir.controller.swaps()] == ["succeeded"]


@pytest.mark.parametrize("phase", ["loading", "validating", "baking"])
async def test_a_swap_goes_on_after_the_loss_of_the_cluster(tmp_path, phase):
    world = await make_world(tmp_path)
    script = world.fleet.scripts["b"]
    if phase == "loading":
        script.load_s = 3
    elif phase == "validating":
        script.answer_s = 3
    swap_id = await world.swap_until(phase, "t", "b", bake_s=600)
    world.store.refuses = True  # the old process writes no more
    world.fleet.apps.clear()
    script.load_s = script.answer_s = 0
    heir = await restart(world)
    await heir.in_phase(swap_id, "baking")
    assert heir.model_of("t") == "b"
    await heir.controller.signal(swap_id, "promote")
    assert (await heir.controller.wait(swap_id, 10))["phase"] == "succeeded"


async def test_a_request_on_a_model_that_was_being_unloaded_survives_the_crash(tmp_path):
    world = await make_world(tmp_path)
    await world.controller.load("b")
    world.fleet.ingress["i0"].in_flight["m-b-g1"] = 1
    unload = asyncio.create_task(world.controller.unload("b"))
    await world.until(lambda: world.loaded()["b"] == "draining" and not world.table.models["b"])
    world.store.refuses = True
    heir = await restart(world)
    await heir.until(lambda: heir.fleet.ingress["i0"].table.models["b"] is None)
    assert "m-b-g1" in heir.fleet.apps
    await heir.fleet.ingress["i0"].finish("m-b-g1")
    await heir.until(lambda: heir.nothing_is_left_of("b"))
    assert heir.fleet.harm == []
    unload.cancel()


async def test_a_swap_whose_task_left_the_configuration_waits_and_is_shown(tmp_path):
    world = await make_world(tmp_path)
    await world.swap_until("baking", "u", "b", bake_s=600)
    world.config = make_config(tasks=ALONE)
    heir = await restart(world)
    status = await heir.controller.status()
    assert status["open_swaps"] == []
    assert "its task or a model is not configured" in status["last_error"]
