"""Swaps with a real controller and store on a cluster in memory: what happens, what is refused."""

import asyncio
from itertools import pairwise

import pytest

from hotswap_ray.core.errors import (
    Conflict,
    EngineUnavailable,
    IllegalTransition,
    NothingToRollBack,
)
from hotswap_ray.core.fit.room import Room
from hotswap_ray.core.swap.phases import Event, Phase, may
from tests.worlds.controller import ControllerWorld, make_config, make_world
from tests.worlds.fakes import MIB

BEFORE_THE_SWITCH = ["loading", "validating", "transferring"]


@pytest.fixture
async def world(tmp_path):
    made = ControllerWorld(tmp_path)
    await made.start()
    yield made
    assert made.fleet.harm == []


# --- the flow ---------------------------------------------------------------------------


async def test_a_swap_loads_checks_switches_and_retires(world):
    record = await world.swap("t", "b")

    assert record["phase"] == "succeeded"
    assert (record["strategy"], record["reason"]) == ("overlap", "both models fit side by side")
    assert record["facts"]["golden"] == "1/1"
    assert record["facts"]["load_p99_ratio"] == 1.0
    assert world.model_of("t") == "b"
    assert world.model_of("u") == "a"
    assert world.learning.transfers == [("t", "a", "b")]
    phases = [row["phase"] for row in await world.controller.journal(record["swap_id"])]
    assert phases == [
        "requested",
        "checking",
        "loading",
        "validating",
        "transferring",
        "canary",
        "switching",
        "draining",
        "baking",
        "retiring",
        "succeeded",
    ]
    assert all(any(may(a, e) for e in Event) for a, _ in pairwise(map(Phase, phases)))


async def test_a_model_that_nobody_needs_any_more_is_gone_after_the_swap(tmp_path):
    tasks = {"t": {"model": "a"}, "u": {"model": "c"}}
    world = await make_world(tmp_path, make_config(tasks=tasks))
    await world.swap("t", "b")
    assert world.nothing_is_left_of("a")
    assert world.loaded() == {"b": "ready", "c": "ready"}


@pytest.mark.parametrize(
    "config",
    [
        make_config(models={"a": {"resident": True}}, tasks={"t": {"model": "a"}}),
        make_config(tasks={"t": {"model": "a"}, "u": {"model": "c", "fallback": "a"}}),
        make_config(),  # task u uses it
    ],
    ids=["resident", "fallback", "shared"],
)
async def test_the_old_model_stays_if_somebody_wants_it(tmp_path, config):
    world = await make_world(tmp_path, config)
    await world.swap("t", "b")
    assert world.loaded()["a"] == "ready"


async def test_the_old_model_is_kept_warm_while_baking_and_promote_ends_that(world):
    swap_id = await world.swap_until("baking", "t", "b", bake_s=600)
    assert world.loaded()["a"] == "ready"

    await world.controller.signal(swap_id, "promote")

    assert (await world.controller.wait(swap_id, 10))["phase"] == "succeeded"


async def test_a_clock_that_goes_backwards_neither_stops_nor_falsifies_a_swap(world):
    swap_id = await world.swap_until("baking", "t", "b", bake_s=600)
    world.clock.now_s -= 10_000
    await world.controller.signal(swap_id, "promote")
    record = await world.controller.wait(swap_id, 10)
    assert record["phase"] == "succeeded"
    assert min(record["seconds"].values()) >= 0


# --- where the room comes from ----------------------------------------------------------

ONE_CPU = Room(cpus=1, memory_bytes=10_000 * MIB)
ALONE = {"t": {"model": "a"}}


async def test_the_old_model_is_drained_first_where_both_do_not_fit(tmp_path):
    world = await make_world(tmp_path, make_config(tasks=ALONE), ONE_CPU)
    record = await world.swap("t", "b")
    assert (record["phase"], record["strategy"]) == ("succeeded", "drain_first")
    assert "CPUs: 1 needed, 0 free" in record["reason"]
    assert world.model_of("t") == "b"
    assert not world.table.routes["t"].held
    assert world.fleet.harm == []


async def test_the_old_model_sleeps_where_only_memory_is_short_and_rollback_wakes_it(tmp_path):
    config = make_config(tasks=ALONE, models={"b": {"resources": {"memory_bytes": 100 * MIB}}})
    world = await make_world(tmp_path, config, Room(cpus=9, memory_bytes=150 * MIB))
    swap_id = await world.swap_until("baking", "t", "b", bake_s=600)
    assert (await world.controller.wait(swap_id, 0))["strategy"] == "sleep"
    assert world.loaded() == {"a": "asleep", "b": "ready"}

    await world.controller.signal(swap_id, "rollback")

    assert (await world.controller.wait(swap_id, 10))["phase"] == "rolled_back"
    assert world.model_of("t") == "a"
    await world.until(lambda: world.loaded() == {"a": "ready"})
    assert world.fleet.harm == []


@pytest.mark.parametrize("strategy", ["drain_first", "sleep"])
async def test_a_candidate_that_fails_gives_the_room_and_the_route_back(tmp_path, strategy):
    world = await make_world(tmp_path, make_config(tasks=ALONE), Room(1, 0, 10_000 * MIB))
    world.fleet.total = Room(2, 0, 10_000 * MIB) if strategy == "sleep" else world.fleet.total
    world.fleet.scripts["b"].load = "raise"
    record = await world.swap("t", "b", strategy=strategy)
    assert record["phase"] == "failed"
    assert "no such weights" in record["error"]
    route = world.table.routes["t"]
    assert (route.model, route.held) == ("a", False)
    assert route.active is not None
    assert world.nothing_is_left_of("b")
    assert world.loaded() == {"a": "ready"}


async def test_no_room_is_a_bounded_wait_and_a_refusal_that_says_what_is_missing(tmp_path):
    world = await make_world(tmp_path, total=ONE_CPU)  # a serves u too: it may not go
    record = await world.swap("t", "b")
    assert record["phase"] == "failed"
    assert "insufficient_resources: no room for b" in record["error"]
    assert "CPUs: 1 needed, 0 free" in record["error"]
    assert world.nothing_is_left_of("b")


async def test_room_that_comes_in_time_is_used(tmp_path):
    world = await make_world(tmp_path, make_config(load_wait_s=5), ONE_CPU)
    swap_id = await world.swap_until("checking", "t", "b")
    world.fleet.total = Room(cpus=2, memory_bytes=10_000 * MIB)
    assert (await world.controller.wait(swap_id, 10))["phase"] == "succeeded"


# --- candidates that are not good enough ------------------------------------------------


@pytest.mark.parametrize("answer", ["wrong", "!!!!", ""])
async def test_a_candidate_that_answers_the_golden_prompts_wrongly_leaves_nothing(world, answer):
    world.fleet.scripts["b"].answer = answer
    record = await world.swap("t", "b")
    assert record["phase"] == "failed"
    assert "validation_failed: b passed 0 of 1 golden prompts" in record["error"]
    assert world.model_of("t") == "a"
    assert world.nothing_is_left_of("b")


async def test_a_candidate_that_never_answers_is_given_up(tmp_path):
    world = await make_world(tmp_path, make_config(validation_timeout_s=0.5))
    world.fleet.scripts["b"].answer_s = 60
    record = await world.swap("t", "b")
    assert record["error"] == "validation_failed: golden prompts took longer than 0.5 s"
    assert world.nothing_is_left_of("b")


@pytest.mark.parametrize(
    ("requirements", "part"),
    [({"max_latency_ms": 1}, "1 ms are allowed"), ({"max_memory_bytes": 5}, "0 MiB are allowed")],
)
async def test_measured_latency_and_memory_are_held_to_the_task(tmp_path, requirements, part):
    tasks = {"t": {"model": "a", "requirements": requirements}}
    world = await make_world(tmp_path, make_config(tasks=tasks))
    world.fleet.scripts["b"].answer_s = 0.01
    record = await world.swap("t", "b")
    assert record["phase"] == "failed"
    assert part in record["error"]


async def test_a_candidate_that_was_there_before_stays_when_it_fails(world):
    await world.controller.load("b")
    world.fleet.scripts["b"].answer = "wrong"
    assert (await world.swap("t", "b"))["phase"] == "failed"
    assert world.loaded()["b"] == "ready"


@pytest.mark.parametrize("mode", ["strict", "warn"])
async def test_gaps_refuse_or_are_recorded(tmp_path, mode):
    config = make_config(models={"b": {"context_tokens": 128}}, compatibility=mode)
    world = await make_world(tmp_path, config)
    record = await world.swap("t", "b")
    if mode == "strict":
        assert record["phase"] == "failed"
        assert "incompatible: b may not replace a for t: warning: context" in record["error"]
        assert ("deploy", "m-b-g1") not in world.fleet.log
    else:
        assert record["phase"] == "succeeded"
        assert record["facts"]["warnings"] == [
            "warning: context: needs 2048 tokens as now, has 128 tokens"
        ]
    other = {"strict": "warn", "warn": "strict"}[mode]
    again = await world.swap("u", "b", compatibility=other)
    assert again["phase"] == ("succeeded" if other == "warn" else "failed")


# --- operators --------------------------------------------------------------------------


async def hold_in(world, phase):
    """Make the candidate stay in a phase."""
    script = world.fleet.scripts["b"]
    if phase == "loading":
        script.load = "hang"
    elif phase == "validating":
        script.answer_s = 4
    elif phase == "transferring":
        world.learning.error = EngineUnavailable("away")
    return await world.swap_until(phase, "t", "b", bake_s=600)


@pytest.mark.parametrize("phase", BEFORE_THE_SWITCH)
@pytest.mark.parametrize("how", ["abort", "rollback"])
async def test_abort_before_the_switch_releases_the_candidate(world, phase, how):
    swap_id = await hold_in(world, phase)
    if how == "abort":
        await world.controller.signal(swap_id, "abort")
    else:
        await world.controller.rollback("t")
    record = await world.controller.wait(swap_id, 10)
    assert (record["phase"], record["error"]) == ("failed", "abort by operator")
    assert world.model_of("t") == "a"
    assert world.nothing_is_left_of("b")


async def test_abort_is_refused_after_the_switch_and_at_the_end(world):
    swap_id = await world.swap_until("baking", "t", "b", bake_s=600)
    with pytest.raises(IllegalTransition, match="is baking; abort is not possible"):
        await world.controller.signal(swap_id, "abort")
    await world.controller.signal(swap_id, "promote")
    await world.controller.wait(swap_id, 10)
    for event in ("abort", "promote", "rollback"):
        with pytest.raises(IllegalTransition, match="it has ended"):
            await world.controller.signal(swap_id, event)


async def test_rollback_while_draining_goes_back_at_once(tmp_path):
    world = await make_world(tmp_path, make_config(tasks=ALONE))
    world.fleet.ingress["i0"].in_flight["m-a-g1"] = 1
    swap_id = await world.swap_until("draining", "t", "b", bake_s=600)
    await world.controller.rollback("t")
    record = await world.controller.wait(swap_id, 10)
    assert record["phase"] == "rolled_back"
    assert record["facts"]["rollback_ms"] < 1000
    assert world.model_of("t") == "a"
    await world.until(lambda: world.nothing_is_left_of("b"))


async def test_rollback_after_success_is_one_commit_while_the_old_model_is_warm(world):
    await world.swap("t", "b")
    undo = await world.controller.rollback("t")
    record = await world.controller.wait(undo["swap_id"], 10)
    assert record["phase"] == "rolled_back"
    assert record["seconds"].keys() == {"rolling_back"}
    assert ("deploy", "m-a-g2") not in world.fleet.log
    assert world.model_of("t") == "a"
    await world.until(lambda: world.nothing_is_left_of("b"))


async def test_rollback_after_the_old_model_was_retired_loads_it_again(tmp_path):
    world = await make_world(tmp_path, make_config(tasks=ALONE), ONE_CPU)
    assert (await world.swap("t", "b"))["phase"] == "succeeded"
    undo = await world.controller.rollback("t")
    assert (await world.controller.wait(undo["swap_id"], 10))["phase"] == "rolled_back"
    assert world.table.routes["t"].active.app == "m-a-g2"
    assert world.fleet.harm == []


async def test_rolling_back_twice_does_not_swap_to_and_fro(world):
    with pytest.raises(NothingToRollBack):
        await world.controller.rollback("t")
    await world.swap("t", "b")
    await world.swap("t", "a")
    for expected in ("b", "a"):
        undo = await world.controller.rollback("t")
        await world.controller.wait(undo["swap_id"], 10)
        assert world.model_of("t") == expected
    with pytest.raises(NothingToRollBack):
        await world.controller.rollback("t")


async def test_asking_again_with_the_same_id_is_the_same_swap(world):
    first, second = await asyncio.gather(
        world.controller.swap("t", "b", "mine"), world.controller.swap("t", "b", "mine")
    )
    await world.controller.wait("mine", 10)
    third = await world.controller.swap("t", "b", "mine")
    assert first["swap_id"] == second["swap_id"] == third["swap_id"]
    assert len(await world.controller.swaps("t")) == 1
    with pytest.raises(Conflict, match="another id"):
        await world.controller.swap("u", "b", "mine")


@pytest.mark.parametrize("bake_s", [0, 600])
async def test_asking_again_for_the_same_rollback_changes_nothing(world, bake_s):
    await world.swap("u", "b")
    swap_id = await world.swap_until("baking" if bake_s else "succeeded", "t", "b", bake_s=bake_s)
    for _ in range(2):
        undo = await world.controller.rollback("t", "undo-1")
        assert (await world.controller.wait(undo["swap_id"], 10))["phase"] == "rolled_back"
        assert world.model_of("t") == "a"
    assert undo["swap_id"] == (swap_id if bake_s else "undo-1")
