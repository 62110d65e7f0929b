"""Swaps and model operations that get in each other's way, and requests that are refused."""

import asyncio

import orjson
import pytest

from hotswap_ray.core.errors import (
    ConfigError,
    Conflict,
    EngineUnavailable,
    IllegalTransition,
    InvalidRequest,
    NotFound,
    NotSupported,
)
from hotswap_ray.core.fit.room import Room
from tests.worlds.controller import ControllerWorld, make_config, make_world
from tests.worlds.fakes import MIB

EVENT_BYTES = 1024
LONG = "n" * 63


@pytest.fixture
async def world(tmp_path):
    made = ControllerWorld(tmp_path)
    await made.start()
    yield made
    assert made.fleet.harm == []


async def test_a_second_swap_of_a_task_is_a_conflict_that_names_the_first(world):
    swap_id = await world.swap_until("baking", "t", "b", bake_s=600)
    with pytest.raises(Conflict, match=f"swap {swap_id} of task 't' is baking") as caught:
        await world.controller.swap("t", "c")
    assert caught.value.retry_after_s == 5.0


async def test_two_tasks_swap_at_once(world):
    records = await asyncio.gather(world.swap("t", "b"), world.swap("u", "c"))
    assert [record["phase"] for record in records] == ["succeeded", "succeeded"]
    assert (world.model_of("t"), world.model_of("u")) == ("b", "c")
    assert world.nothing_is_left_of("a")


async def test_two_tasks_swap_to_the_same_model_which_is_loaded_once(world):
    await asyncio.gather(world.swap("t", "b"), world.swap("u", "b"))
    assert [entry for entry in world.fleet.log if "b" in entry[1]] == [("deploy", "m-b-g1")]


async def test_a_retiring_swap_leaves_a_model_that_another_open_swap_needs(world):
    await world.swap("u", "c")
    first = await world.swap_until("baking", "t", "b", bake_s=600)  # t: a -> b, a is warm
    second = await world.swap_until("baking", "u", "a", bake_s=600)  # u: c -> a
    await world.controller.rollback("u")  # retires a, but t may still go back to it
    await world.controller.wait(second, 10)
    await world.controller.rollback("t")
    record = await world.controller.wait(first, 10)
    assert record["phase"] == "rolled_back"
    assert ("deploy", "m-a-g2") not in world.fleet.log
    assert world.loaded()["a"] == "ready"


async def test_a_candidate_that_another_swap_counts_on_is_not_released(world):
    tasks = {"t", "u"}
    world.fleet.scripts["b"].answer_s = 0.3
    first = await world.swap_until("validating", "t", "b")
    second = (await world.controller.swap("u", "b"))["swap_id"]
    await world.controller.signal(first, "abort")
    assert (await world.controller.wait(second, 10))["phase"] == "succeeded"
    assert {task: world.model_of(task) for task in tasks} == {"t": "a", "u": "b"}


@pytest.mark.parametrize(
    ("task", "model", "error", "part"),
    [
        ("t", "a", Conflict, "serves task 't' already"),
        ("t", "bb", NotFound, "unknown model 'bb'; did you mean 'b'"),
        ("tt", "b", NotFound, "unknown task 'tt'; did you mean 't'"),
    ],
)
async def test_a_swap_that_makes_no_sense_is_refused(world, task, model, error, part):
    with pytest.raises(error, match=part):
        await world.controller.swap(task, model)
    assert await world.controller.swaps() == []


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ({"bake_s": -1}, "bake_s"),
        ({"bake_s": float("nan")}, "bake_s"),
        ({"strategy": "big_bang"}, "strategy"),
        ({"compatibility": "maybe"}, "compatibility"),
        ({"swap_id": "../x"}, "swap id"),
        ({"swap_id": "x" * 64}, "swap id"),
    ],
)
async def test_an_option_out_of_range_is_refused_by_name(world, options, part):
    with pytest.raises(InvalidRequest, match=part):
        await world.controller.swap("t", "b", **options)
    assert await world.controller.swaps() == []


@pytest.mark.parametrize("event", ["done", "failed", "explode"])
async def test_an_operator_cannot_say_what_only_an_action_may(world, event):
    swap_id = await world.swap_until("baking", "t", "b", bake_s=600)
    with pytest.raises(InvalidRequest, match="expected one of abort, promote, rollback"):
        await world.controller.signal(swap_id, event)


async def test_a_swap_to_a_model_that_is_just_loading_is_a_conflict(world):
    world.fleet.scripts["b"].load_s = 0.5
    load = asyncio.create_task(world.controller.load("b"))
    await world.until(lambda: world.loaded().get("b") == "loading")
    with pytest.raises(Conflict, match="model 'b' is loading"):
        await world.controller.swap("t", "b")
    assert (await load)["state"] == "ready"


async def test_a_model_that_serves_can_neither_be_unloaded_nor_put_to_sleep(world):
    for operation in (world.controller.unload, world.controller.sleep):
        with pytest.raises(Conflict, match="serves t, u; swap first"):
            await operation("a")
    swap_id = await world.swap_until("baking", "t", "b", bake_s=600)
    with pytest.raises(Conflict, match=f"part of open swap {swap_id}"):
        await world.controller.unload("b")


async def test_models_come_sleep_wake_and_go_at_run_time(world):
    spec = {"engine": "simulated", "resources": {"num_cpus": 1}}
    described = await world.controller.load("newcomer", spec)
    assert (described["state"], described["generation"]) == ("ready", 1)
    assert (await world.controller.sleep("newcomer"))["state"] == "asleep"
    assert world.table.models["newcomer"] is None
    assert (await world.controller.load("newcomer"))["state"] == "ready"
    assert (await world.controller.unload("newcomer"))["state"] == "unloaded"
    assert world.nothing_is_left_of("newcomer")
    assert (await world.controller.unload("newcomer"))["state"] == "unloaded"


async def test_sleep_of_an_engine_that_cannot_is_refused_and_disturbs_nothing(tmp_path):
    world = await make_world(tmp_path, make_config(models={"b": {"options": {"can_sleep": False}}}))
    await world.controller.load("b")
    version = world.table.version
    with pytest.raises(NotSupported, match="cannot sleep"):
        await world.controller.sleep("b")
    assert world.table.version == version


async def test_a_sleep_that_fails_leaves_the_model_serving(world):
    await world.controller.load("b")
    world.fleet.scripts["b"].fails = {"sleep"}
    with pytest.raises(EngineUnavailable):
        await world.controller.sleep("b")
    assert world.loaded()["b"] == "ready"
    assert world.table.models["b"] is not None


@pytest.mark.parametrize(
    ("spec", "error", "part"),
    [
        ({"engine": "simulate"}, NotFound, "did you mean 'simulated'"),
        ({"engine": "simulated", "options": {"sed": 1}}, ConfigError, "did you mean 'seed'"),
        ({"engine": "simulated", "context_tokens": "many"}, ConfigError, "context_tokens"),
        ({"engine": "simulated", "colour": "red"}, ConfigError, "colour"),
        ({}, ConfigError, "engine"),
    ],
)
async def test_a_bad_spec_is_refused_before_anything_is_made(world, spec, error, part):
    with pytest.raises(error, match=part):
        await world.controller.load("newcomer", spec)
    assert world.store.load_models() == []
    assert "newcomer" not in world.table.models


async def test_a_loaded_model_does_not_change_its_settings_under_its_requests(world):
    await world.controller.load("x", {"engine": "simulated"})
    with pytest.raises(Conflict, match="unload it first"):
        await world.controller.load("x", {"engine": "simulated", "context_tokens": 64})


async def test_abort_while_the_old_model_drains_gives_it_back_at_once(tmp_path):
    config = make_config(tasks={"t": {"model": "a"}})
    world = await make_world(tmp_path, config, Room(1, 0, 1000 * MIB))
    world.fleet.ingress["i0"].in_flight["m-a-g1"] = 1  # a long stream
    swap_id = await world.swap_until("loading", "t", "b")
    await world.until(lambda: world.loaded() == {"a": "draining"})

    await world.controller.signal(swap_id, "abort")

    record = await world.controller.wait(swap_id, 10)
    route = world.table.routes["t"]
    assert record["phase"] == "failed"
    assert (route.active.app, route.held) == ("m-a-g1", False)
    assert not world.fleet.harm


@pytest.mark.parametrize(
    ("phase", "accepted"),
    [
        *((p, True) for p in ("checking", "loading", "validating", "transferring", "canary")),
        ("switching", True),  # nothing is committed yet
        *((p, False) for p in ("draining", "baking", "retiring", "succeeded")),
    ],
)
async def test_an_accepted_abort_is_never_forgotten(world, phase, accepted):
    """Spoken while the phase before this one ends: honoured or refused, not lost."""
    held = world.store.hold(phase)
    swap_id = (await world.controller.swap("t", "b"))["swap_id"]
    said = await world.while_saving(held, swap_id, world.controller.signal(swap_id, "abort"))
    assert isinstance(said, dict if accepted else IllegalTransition)
    record = await world.controller.wait(swap_id, 10)
    assert record["phase"] == ("failed" if accepted else "succeeded")


async def test_the_learning_actor_away_for_a_moment_costs_no_swap(world):
    world.learning.error = EngineUnavailable("being restarted")
    swap_id = await world.swap_until("transferring", "t", "b")
    world.learning.error = None
    record = await world.controller.wait(swap_id, 10)
    assert record["phase"] == "succeeded"
    assert "load_p99_ratio" not in record["facts"]


async def test_a_swap_event_stays_small_whatever_names_and_errors_are(tmp_path):
    models = {"a": {}, LONG: {}}
    world = await make_world(tmp_path, make_config(models, {"t" + LONG[1:]: {"model": "a"}}))
    world.fleet.scripts[LONG].load = "raise"
    record = await world.swap("t" + LONG[1:], LONG, swap_id="s" + LONG[1:])
    events = await world.controller.events()
    assert record["phase"] == "failed"
    assert events
    assert max(len(orjson.dumps(event)) for event in events) <= EVENT_BYTES


async def test_a_swap_record_fits_in_a_kilobyte(world):
    record = await world.swap("t", "b")
    undo = await world.controller.rollback("t")
    undo = await world.controller.wait(undo["swap_id"], 10)
    assert len(orjson.dumps(record)) <= EVENT_BYTES
    assert len(orjson.dumps(undo)) <= EVENT_BYTES
