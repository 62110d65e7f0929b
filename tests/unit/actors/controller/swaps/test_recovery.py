"""A controller that dies after any of its saves is followed by one that brings the same end."""

import asyncio
from contextlib import suppress
from itertools import pairwise

import pytest

from hotswap_ray.core.errors import IllegalTransition
from hotswap_ray.core.fit.room import Room
from hotswap_ray.core.swap.phases import TERMINAL, TRANSITIONS, Phase
from tests.worlds.controller import Crash, World, make_config, make_world, quick_polls
from tests.worlds.fakes import MIB, FakeIngress

ALONE = {"t": {"model": "a"}}
GOLDEN = {"prompt": "say right", "check": {"kind": "contains", "value": "right"}}
JUDGED = {"t": {"model": "a", "golden": [GOLDEN]}}
MOST_COMMITS = 60
OPEN = {phase.value for phase in Phase} - TERMINAL


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    quick_polls(monkeypatch)


def succession(world, path):
    """Another process with the same store and cluster."""
    heir = type(world)(path, world.config, replicas=0)
    heir.fleet, heir.learning = world.fleet, world.learning
    heir.learning.nudged = asyncio.Event()  # the old one belongs to the loop that died
    for name, old in world.fleet.ingress.items():
        ingress = heir.fleet.ingress[name] = FakeIngress(name)
        ingress.table, ingress.in_flight = old.table, old.in_flight
    return heir


def run_with_crash(path, config, total, scripts, commits, job):
    """Run a job, crash after so many commits, go on; the heir and whether it came to a crash.

    Instead of a number ``commits`` may say of a world whether its last commit is the one.
    """
    crash, loop = Crash(), asyncio.new_event_loop()
    world = World(path, config, total)
    for model, changes in scripts.items():
        for name, value in changes.items():
            setattr(world.fleet.scripts[model], name, value)
    loop.run_until_complete(world.start())
    if callable(commits):
        crash.when(world, lambda: commits(world), loop)
    else:
        crash.after(world, commits, loop)
    work = loop.create_task(job(world))
    work.add_done_callback(lambda _: loop.stop())
    loop.run_forever()
    if not crash.happened:
        work.result()
        world.store.after_commit = None
        crash.bury(loop)
        return world, False
    crash.bury(loop)
    heir = succession(world, path)
    try:
        with asyncio.Runner() as runner:
            runner.run(_finish(heir, job))
    finally:
        crash.release()
    return heir, True


async def _finish(heir, job):
    await heir.start()
    if not await heir.controller.swaps():  # it was not saved: who got no answer asks again
        await job(heir)
    for record in await heir.controller.swaps():
        while (record := await heir.controller.wait(record["swap_id"], 0.02))["phase"] in OPEN:
            if record["phase"] == "baking":
                with suppress(IllegalTransition):  # it ended by itself
                    await heir.controller.signal(record["swap_id"], "promote")
    await heir.until(lambda: not heir.controller._recovery._work)
    await heir.until(lambda: not heir.controller._runner._tasks)


async def plain_swap(world):
    await world.swap("t", "b", swap_id="s1")


async def swap_and_go_back(world):
    swap_id = await world.swap_until("baking", "t", "b", swap_id="s1", bake_s=600)
    await world.controller.signal(swap_id, "rollback")
    await world.controller.wait(swap_id, 20)
    await world.until(lambda: not world.controller._runner._tasks)


def check_history(world, swap_id="s1"):
    phases = [Phase(row["phase"]) for row in world.store.load_journal(swap_id)]
    assert phases[0] is Phase.REQUESTED
    for before, after in pairwise(phases):
        assert after in TRANSITIONS[before].values()
    deployed = [app for verb, app in world.fleet.log if verb == "deploy"]
    assert len(deployed) == len(set(deployed)), "an application was deployed twice"
    return phases


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
    crashed = True
    for commits in range(1, MOST_COMMITS):
        path = tmp_path / str(commits)
        path.mkdir()
        world, crashed = run_with_crash(path, config, total, scripts, commits, plain_swap)
        record = world.store.load_swap("s1")
        where = f"crash after commit {commits}: {record}"
        assert record["phase"] == phase, where
        assert world.fleet.harm == [], where
        assert world.model_of("t") == model, where
        assert world.table.routes["t"].active is not None, where
        assert not world.table.routes["t"].held, where
        assert world.loaded() == {model: "ready"}, where
        assert {app.spec.id for app in world.fleet.apps.values()} == {model}, where
        check_history(world)
        if not crashed:
            break
    assert not crashed, "the swap has more commits than were tried"


def test_a_crash_after_every_save_of_a_rollback_goes_back(tmp_path):
    for commits in range(1, MOST_COMMITS):
        path = tmp_path / str(commits)
        path.mkdir()
        config = make_config(tasks=JUDGED)
        world, crashed = run_with_crash(path, config, None, {}, commits, swap_and_go_back)
        phases = check_history(world)
        assert world.fleet.harm == []
        # Before the rollback was asked for, a crash leaves a swap that simply succeeds.
        wanted = "a" if Phase.ROLLING_BACK in phases else "b"
        if wanted == "a":
            assert world.loaded() == {wanted: "ready"}, f"crash after commit {commits}"
        assert world.model_of("t") == wanted
        if not crashed:
            return
    raise AssertionError("the swap has more commits than were tried")


async def restart(world, path):
    """The old controller is gone; its successor."""
    for follower in world._followers.values():
        follower.cancel()
    heir = succession(world, path)
    await heir.start()
    return heir


async def test_a_model_loaded_at_run_time_is_adopted_or_loaded_again(tmp_path):
    world = await make_world(tmp_path)
    await world.controller.load("newcomer", {"engine": "simulated"})
    heir = await restart(world, tmp_path)
    await heir.until(lambda: heir.table.models["newcomer"])
    assert heir.loaded()["newcomer"] == "ready"
    assert heir.table.models["newcomer"].app == "m-newcomer-g1"

    heir.fleet.apps.clear()  # the whole cluster went
    last = await restart(heir, tmp_path)
    await last.until(lambda: last.table.models["newcomer"])
    assert last.table.models["newcomer"].app == "m-newcomer-g2"


async def test_after_the_loss_of_the_cluster_the_swapped_model_serves_again(tmp_path):
    world = await make_world(tmp_path)
    await world.swap("t", "b")
    world.fleet.apps.clear()
    heir = await restart(world, tmp_path)
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
    heir = await restart(world, tmp_path)
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
    heir = await restart(world, tmp_path)
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
    heir = await restart(world, tmp_path)
    status = await heir.controller.status()
    assert status["open_swaps"] == []
    assert "its task or a model is not configured" in status["last_error"]
