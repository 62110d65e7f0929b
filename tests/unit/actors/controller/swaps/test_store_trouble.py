"""The store refuses for a while: traffic keeps its table, swaps wait and go on."""

import pytest

from hotswap_ray.core.errors import StoreError
from tests.worlds.controller import ControllerWorld, make_config, make_world


async def test_a_swap_that_cannot_be_saved_does_not_exist(tmp_path):
    world = await make_world(tmp_path)
    world.store.refuses = True
    with pytest.raises(StoreError):
        await world.controller.swap("t", "b", "s1", bake_s=0)
    world.store.refuses = False
    assert await world.controller.swaps() == []
    assert (await world.swap("t", "b", swap_id="s1"))["phase"] == "succeeded"


@pytest.mark.parametrize("allowed", range(1, 16))
async def test_a_swap_waits_for_the_store_wherever_it_refuses(tmp_path, allowed):
    world = await make_world(tmp_path)
    await world.quiet()  # what the start saves is not the swap's
    left = [allowed]

    def hook():
        left[0] -= bool(world.controller._runner.open())
        if left[0] == 0:
            world.store.refuses = True

    world.store.after_commit = hook
    record = await world.controller.swap("t", "b")
    if left[0] > 0:
        await world.until(lambda: world.store.refuses or not world.controller._runner.open())
    if world.store.refuses:
        await world.until(lambda: "locked" in world.controller._runner.last_error)
        status = await world.controller.status()
        assert "waits for the store" in status["last_error"]
        assert world.table.routes["t"].active is not None
        world.store.after_commit, world.store.refuses = None, False
    record = await world.controller.wait(record["swap_id"], 20)
    assert record["phase"] == "succeeded"
    assert world.model_of("t") == "b"
    assert world.fleet.harm == []
    phases = [row["phase"] for row in await world.controller.journal(record["swap_id"])]
    assert len(phases) == len(set(phases)) == 11


async def test_a_verdict_that_came_while_the_store_refused_is_kept(tmp_path):
    world = await make_world(tmp_path)
    world.fleet.scripts["b"].answer_s = 1
    swap_id = await world.swap_until("validating", "t", "b")
    world.store.refuses = True
    world.fleet.scripts["b"].answer = "wrong"
    await world.until(lambda: "waits for the store" in world.controller._runner.last_error)
    world.store.refuses = False
    assert (await world.controller.wait(swap_id, 20))["phase"] == "failed"
    assert world.nothing_is_left_of("b")


async def test_a_controller_that_cannot_read_the_store_starts_when_it_can(tmp_path):
    world = ControllerWorld(tmp_path, make_config())
    world.store.refuses = True
    starting = world.start()
    with pytest.raises(StoreError):
        await starting
    world.store.refuses = False
    await world.controller.start()
    await world.until(lambda: world.table.routes["t"].active)
