"""Operators, guardrails, webhooks and the end of a phase at the same moment: one of them wins."""

import asyncio
import threading

import pytest

from hotswap_ray.actors.controller.swaps import canary as canary_module
from hotswap_ray.config import Config
from hotswap_ray.core.errors import Conflict, IllegalTransition
from tests.worlds.controller import make_config
from tests.worlds.rollout import BAD, FEW, GOOD, PLAN, Watched, check_end


@pytest.fixture(autouse=True)
def quick_retries(monkeypatch):
    monkeypatch.setattr(canary_module, "RETRY_S", 0.005)


@pytest.fixture
async def world(tmp_path):
    made = Watched(tmp_path)
    made.sees(FEW)
    await made.start()
    return made


@pytest.mark.parametrize("event", ["promote", "abort"])
async def test_an_operators_event_wins_over_a_guardrail_that_is_still_being_looked_at(world, event):
    swap_id = await world.canary()
    looked, answered = asyncio.Event(), asyncio.Event()
    observed = world.learning.observed

    async def slow(*asked):
        looked.set()
        await answered.wait()
        return await observed(*asked)

    world.learning.observed = slow
    world.sees(BAD)
    await looked.wait()
    await world.controller.signal(swap_id, event)
    answered.set()
    record = await world.controller.wait(swap_id, 10)
    assert record["phase"] == ("succeeded" if event == "promote" else "failed")
    if event == "abort":
        assert record["error"] == "abort by operator"
    check_end(world, record)


@pytest.mark.parametrize("event", ["promote", "abort"])
@pytest.mark.parametrize("moment", ["while it is saved", "after the end"])
async def test_a_guardrail_that_failed_wins_over_an_operators_event_which_is_refused(
    world, event, moment
):
    swap_id = await world.canary()
    held = world.store.hold("releasing")
    world.sees(BAD)
    if moment == "after the end":
        held.release()
        await world.controller.wait(swap_id, 10)
        with pytest.raises(IllegalTransition, match=f"swap {swap_id} is failed"):
            await world.controller.signal(swap_id, event)
    else:
        refused = await world.while_saving(held, swap_id, world.controller.signal(swap_id, event))
        assert isinstance(refused, IllegalTransition)
        assert f"swap {swap_id} is releasing" in str(refused)
    record = await world.controller.wait(swap_id, 10)
    assert record["phase"] == "failed"
    assert "b at 1%: error_rate" in record["error"]
    check_end(world, record)


@pytest.mark.parametrize("event", ["promote", "abort"])
async def test_an_event_in_the_middle_of_a_save_is_saved_after_it_and_not_under_it(
    world, event, monkeypatch
):
    """The store is slow while a step is opened: its answer must not undo the operator's."""
    swap_id = await world.canary()
    released = threading.Event()
    commit, begun, loop = world.store.commit_swap, asyncio.Event(), asyncio.get_running_loop()

    def slow(swap, table):
        loop.call_soon_threadsafe(begun.set)
        assert released.wait(10)
        commit(swap, table)

    monkeypatch.setattr(world.store, "commit_swap", slow)
    world.sees(GOOD)
    await begun.wait()
    said = asyncio.create_task(world.controller.signal(swap_id, event))
    await asyncio.sleep(0.01)
    assert not said.done()
    released.set()
    await said
    record = await world.controller.wait(swap_id, 10)
    assert record["phase"] == ("succeeded" if event == "promote" else "failed")
    check_end(world, record)


async def test_a_rollback_while_the_old_model_is_retired_is_told_to_ask_again(tmp_path):
    world = Watched(tmp_path, make_config(tasks={"t": {"model": "a"}}, drain_timeout_s=0.1))
    await world.start()
    world.fleet.ingress["i0"].in_flight["m-a-g1"] = 1  # a long stream
    swap_id = await world.swap_until("retiring", "t", "b")
    with pytest.raises(Conflict, match=f"{swap_id} is retiring.*ask again when it") as caught:
        await world.controller.rollback("t")
    assert caught.value.retry_after_s == 5.0
    await world.fleet.ingress["i0"].finish("m-a-g1")
    assert (await world.controller.wait(swap_id, 10))["phase"] == "succeeded"
    undo = await world.controller.rollback("t")
    assert (await world.controller.wait(undo["swap_id"], 10))["phase"] == "rolled_back"
    assert (world.model_of("t"), world.fleet.harm) == ("a", [])
    assert world.table.routes["t"].active.app == "m-a-g2"


async def alone(path):
    """A world whose one task is t."""
    world = Watched(path, make_config(tasks={"t": {"model": "a"}}))
    await world.start()
    return world


async def test_a_rollback_before_a_bake_ends_goes_back(tmp_path):
    world = await alone(tmp_path)
    swap_id = await world.swap_until("baking", "t", "b", bake_s=600)
    assert (await world.controller.rollback("t"))["swap_id"] == swap_id
    assert (await world.controller.wait(swap_id, 10))["phase"] == "rolled_back"
    assert (world.model_of("t"), world.fleet.harm) == ("a", [])


async def test_a_rollback_while_the_end_of_a_bake_is_saved_says_why_not(tmp_path):
    world = await alone(tmp_path)
    held = world.store.hold("retiring")
    swap_id = (await world.controller.swap("t", "b"))["swap_id"]
    refused = await world.while_saving(held, swap_id, world.controller.rollback("t"))
    assert isinstance(refused, Conflict)
    assert "ask again when it has ended" in str(refused)
    assert (await world.controller.wait(swap_id, 10))["phase"] == "succeeded"
    assert (world.model_of("t"), world.fleet.harm) == ("b", [])


async def test_a_rollback_after_a_bake_has_ended_is_a_swap_of_its_own(tmp_path):
    world = await alone(tmp_path)
    record = await world.swap("t", "b")
    undo = await world.controller.rollback("t")
    await world.controller.wait(undo["swap_id"], 10)
    assert undo["swap_id"] != record["swap_id"]
    assert record["phase"] == "succeeded"
    assert (world.model_of("t"), world.fleet.harm) == ("a", [])


@pytest.mark.parametrize("path", ["/500", "/hang"])
@pytest.mark.parametrize("policy", ["abort", "ignore"])
async def test_a_webhook_that_is_down_stops_a_canary_or_does_not_as_declared(
    tmp_path, receiver, path, policy
):
    hook = {"url": receiver.url(path), "events": ["before:canary"], "timeout_s": 0.1}
    made = make_config(canary=PLAN).model_dump()
    config = Config.model_validate({**made, "webhooks": [{**hook, "on_failure": policy}]})
    world = Watched(tmp_path, config)
    world.sees(GOOD)
    await world.start()
    record = await world.swap("t", "b")
    assert record["phase"] == ("failed" if policy == "abort" else "succeeded")
    assert [one for one, _, _ in receiver.got] == [path]
    if policy == "abort":
        assert "did not consent to canary" in record["error"]
        assert world.model_of("t") == "a"
    else:
        check_end(world, record)
