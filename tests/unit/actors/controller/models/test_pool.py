"""Models come and go; a load that fails leaves nothing, and nobody's request is cut off."""

import asyncio

import pytest

from hotswap_ray.actors.cluster.generation import Generation, can_sleep, target_of
from hotswap_ray.core.errors import (
    EngineLoadFailed,
    EngineTimeout,
    EngineUnavailable,
    InsufficientResources,
    StoreError,
)
from hotswap_ray.core.fit.room import Room
from hotswap_ray.core.spec.task import ModelSpec
from tests.worlds.controller import make_config, make_world
from tests.worlds.fakes import MIB


@pytest.mark.parametrize(
    ("behaviour", "error", "part"),
    [
        ("raise", EngineLoadFailed, "model 'b' did not load: no such weights"),
        ("hang", EngineLoadFailed, "was not ready after 1 s"),
        ("die", EngineUnavailable, "ping fails"),
        ("broken", EngineUnavailable, "Ray refuses"),
    ],
)
async def test_a_load_that_fails_says_why_and_leaves_nothing(tmp_path, behaviour, error, part):
    world = await make_world(tmp_path, make_config({"b": {"load_timeout_s": 1}}))
    world.fleet.scripts["b"].load = behaviour
    with pytest.raises(error, match=part):
        await world.controller.load("b")
    assert world.nothing_is_left_of("b")

    world.fleet.scripts["b"].load = "ok"
    assert (await world.controller.load("b"))["generation"] == 2


async def test_a_replica_that_vanishes_before_its_first_answer_does_not_hang_the_load(tmp_path):
    world = await make_world(tmp_path, make_config({"b": {"load_timeout_s": 1}}))
    call = world.fleet.call

    async def vanish(app, method, *args):
        if method == "ping":
            await asyncio.Event().wait()
        return await call(app, method, *args)

    world.fleet.call = vanish
    with pytest.raises(EngineTimeout, match="did not answer ping within 1 s"):
        await world.controller.load("b")
    assert world.nothing_is_left_of("b")


@pytest.mark.parametrize(
    ("resources", "part"),
    [
        ({"num_cpus": 99}, "CPUs: 99 needed"),
        ({"num_gpus": 2}, "GPUs: 2 needed, 0 free"),
        ({"accelerator_type": "H100", "num_gpus": 1}, "accelerator: H100 needed, none free"),
        ({"memory_bytes": 2**50}, "memory: 1073741824 MiB needed"),
        ({"replicas": 17}, "CPUs: 17 needed"),
        ({"autoscale": {"min_replicas": 18, "max_replicas": 20}}, "CPUs: 18 needed"),
    ],
)
async def test_want_of_room_is_refused_after_a_bounded_wait_by_name(tmp_path, resources, part):
    world = await make_world(tmp_path)
    with pytest.raises(InsufficientResources, match=part):
        await world.controller.load("big", {"engine": "simulated", "resources": resources})
    assert world.nothing_is_left_of("big")


async def test_a_model_that_waits_for_room_does_not_keep_others_from_loading(tmp_path):
    world = await make_world(tmp_path, make_config(load_wait_s=30))
    big = {"engine": "simulated", "resources": {"num_cpus": 99}}
    waiting = asyncio.create_task(world.controller.load("big", big))
    await world.until(lambda: "big" in world.table.models)
    async with asyncio.timeout(10):
        assert (await world.controller.load("b"))["state"] == "ready"
    waiting.cancel()


async def test_loading_twice_at_once_is_one_load(tmp_path):
    world = await make_world(tmp_path)
    world.fleet.scripts["b"].load_s = 0.1
    await asyncio.gather(*(world.controller.load("b") for _ in range(5)))
    assert world.fleet.log.count(("deploy", "m-b-g1")) == 1


async def test_unload_waits_for_every_request_however_long(tmp_path):
    world = await make_world(tmp_path, make_config(drain_timeout_s=0.1))
    await world.controller.load("b")
    ingress = world.fleet.ingress["i0"]
    ingress.in_flight["m-b-g1"] = 2
    unload = asyncio.create_task(world.controller.unload("b"))
    await world.until(lambda: world.table.models["b"] is None)
    assert (await asyncio.wait([unload], timeout=0.5))[1] == {unload}
    await ingress.finish("m-b-g1")
    await unload
    assert world.fleet.harm == []
    assert world.nothing_is_left_of("b")


async def test_a_late_ingress_replica_is_waited_for_and_a_dead_one_is_not(tmp_path):
    world = await make_world(tmp_path, make_config(ack_timeout_s=0.1))
    await world.controller.load("b")
    ingress = world.fleet.ingress["i1"]
    ingress.late.clear()
    unload = asyncio.create_task(world.controller.unload("b"))
    await world.until(lambda: world.table.models["b"] is None)
    assert (await asyncio.wait([unload], timeout=0.5))[1] == {unload}
    world.kill_ingress("i1")
    async with asyncio.timeout(10):
        await unload
    assert world.fleet.harm == []


@pytest.mark.parametrize("operation", ["load", "unload"])
async def test_a_store_that_refuses_fails_the_operation_and_the_next_try_repairs(
    tmp_path, operation
):
    world = await make_world(tmp_path)
    if operation == "unload":
        await world.controller.load("b")
    left = [0]
    for allowed in range(12):  # refuse from the n-th commit on, then try again

        def hook(limit=allowed):
            left[0] += 1
            if left[0] >= limit:
                world.store.refuses = True

        left[0] = 0
        world.store.refuses = allowed == 0
        world.store.after_commit = hook
        try:
            await getattr(world.controller, operation)("b")
            failed = False
        except StoreError:
            failed = True
        world.store.refuses, world.store.after_commit = False, None
        assert world.table.routes["t"].active is not None
        await world.controller.load("b")
        assert world.table.models["b"] is not None
        assert world.loaded()["b"] == "ready"
        if operation == "load":
            await world.controller.unload("b")
            assert world.nothing_is_left_of("b")
        if not failed and allowed:
            break
    assert not failed
    assert world.fleet.harm == []


async def test_measured_memory_decides_the_next_time(tmp_path):
    world = await make_world(tmp_path, total=Room(16, 0, 1000 * MIB))
    world.fleet.scripts["b"].memory = 800 * MIB
    await world.controller.load("b")
    await world.controller.unload("b")
    world.fleet.total = Room(16, 0, 500 * MIB)
    with pytest.raises(InsufficientResources, match="memory: 800 MiB needed, 400 MiB free"):
        await world.controller.load("b")


def test_each_ingress_replica_gets_its_share_of_all_replicas_of_a_model():
    spec = ModelSpec(
        id="m",
        engine="simulated",
        max_ongoing_requests=4,
        max_queued_requests=2,
        resources={"autoscale": {"min_replicas": 1, "max_replicas": 3}},
    )
    assert target_of(spec, Generation("m", 2), 2).limit == 7


async def test_an_abort_while_serve_is_being_asked_leaves_nothing(tmp_path):
    world = await make_world(tmp_path)
    deploy, asked, go_on = world.fleet.deploy, asyncio.Event(), asyncio.Event()

    async def in_a_thread(*args):  # a thread goes on when its caller is cancelled
        async def work():
            asked.set()
            await go_on.wait()
            await deploy(*args)

        await asyncio.shield(work())

    world.fleet.deploy = in_a_thread
    swap_id = (await world.controller.swap("t", "b"))["swap_id"]
    await asked.wait()
    abort = asyncio.create_task(world.controller.signal(swap_id, "abort"))
    await asyncio.sleep(0.02)
    go_on.set()
    await abort
    assert (await world.controller.wait(swap_id, 10))["phase"] == "failed"
    assert ("deploy", "m-b-g1") in world.fleet.log
    assert world.nothing_is_left_of("b")


@pytest.mark.parametrize("resources", [{"replicas": 2}, {"autoscale": {"max_replicas": 3}}])
def test_a_model_with_several_replicas_cannot_sleep(resources):
    one = ModelSpec(id="m", engine="simulated")
    many = ModelSpec(id="m", engine="simulated", resources=resources)

    assert (can_sleep(one), can_sleep(many)) == (True, False)
