"""Conversations keep their model through a whole rollout, whichever replica they reach."""

import asyncio
import random
from collections import Counter
from dataclasses import replace

import orjson
import pytest

from hotswap_ray.core.errors import EngineError, EngineUnavailable
from hotswap_ray.core.outcome import RoutingDecision
from hotswap_ray.core.routing.split import ACTIVE, Conversations, Share, Split
from hotswap_ray.core.routing.table import RouteTable, with_model, with_split
from hotswap_ray.core.routing.target import Target
from tests.worlds.router import B, C, RouterWorld, answer, asked, settle

SPLIT = Split("rollout-1", (Share(B, 0.05),))


async def use(world, split):
    await world.use(with_split(world.table, "t", split))


async def test_weights_are_honoured_within_a_point_over_ten_thousand_conversations():
    world = RouterWorld()
    for weight in (0.05, 0.5):
        await use(world, SPLIT.moved((weight,), {}))
        told = Counter([await answer(world, asked(n)) for n in range(10_000)])
        assert told["b", "canary"] / 10_000 == pytest.approx(weight, abs=0.01)
        assert set(told) == {("a", "active"), ("b", "canary")}


async def test_a_request_of_an_ab_tests_variant_is_recorded_as_one():
    world = RouterWorld()
    split = replace(SPLIT, decision=RoutingDecision.AB_TEST)
    await use(world, split.opened((1.0,)).moved((1.0,), {}))
    assert await answer(world, asked(1)) == ("b", "ab_test")
    table = RouteTable.from_doc(orjson.loads(orjson.dumps(world.table.to_doc())))
    assert table.routes["t"].split == world.table.routes["t"].split


async def step_of(split, weights, replicas, rng):
    """A step as the controller makes it; some requests come between its two commits."""
    opened = split.opened(weights)
    for world in replicas:
        await use(world, opened)
    moving = {}
    for world in replicas:
        moving |= world.router.division.moving(world.table)["t"]
    early = [
        asyncio.create_task(answer(rng.choice(replicas), asked(0, f"s{rng.random()}")))
        for _ in range(50)
    ]
    await settle()
    split = opened.moved(weights, moving)
    for world in replicas:
        await use(world, split)
    await asyncio.gather(*early)
    return split


async def test_no_conversation_sees_two_models_while_the_share_grows_over_two_replicas():
    """The steps are made as the controller makes them: open, hear of everybody, commit."""
    rng = random.Random(3)
    replicas = [RouterWorld(), RouterWorld()]
    split = SPLIT.moved((0.0,), {})
    seen: dict[str, set[str]] = {}
    alive: list[str] = []
    for step in (0.05, 0.25, 0.6):
        split = await step_of(split, (step,), replicas, rng)
        alive += [f"s-{step}-{n}" for n in range(400)]
        for n in range(4000):
            conversation = rng.choice(alive)
            model, _ = await answer(rng.choice(replicas), asked(n, conversation))
            seen.setdefault(conversation, set()).add(model)
    assert all(len(models) == 1 for models in seen.values())
    newest = [next(iter(models)) for name, models in seen.items() if name.startswith("s-0.6")]
    assert newest.count("b") / len(newest) == pytest.approx(0.6, abs=0.08)


async def test_a_conversation_in_question_waits_for_the_step_and_no_other_does():
    world = RouterWorld(hold_timeout_s=5)
    opening = SPLIT.opened((0.5,))
    places = {n: SPLIT.mark(f"s{n}") / 2**64 for n in range(50)}
    between = next(n for n, place in places.items() if 0.05 < place < 0.5)
    above = next(n for n, place in places.items() if place > 0.5)
    await use(world, opening)
    assert await answer(world, asked(1, f"s{above}")) == ("a", "active")
    waiting = asyncio.create_task(answer(world, asked(2, f"s{between}")))
    await settle()
    assert not waiting.done()
    await use(world, SPLIT.moved((0.5,), {}))
    assert await waiting == ("b", "canary")


async def test_a_step_that_is_never_made_costs_a_wait_with_a_limit():
    world = RouterWorld(hold_timeout_s=0.05)
    await use(world, SPLIT.moved((0.0,), {}).opened((1.0,)))
    with pytest.raises(EngineUnavailable, match="a rollout of task 't' goes on"):
        await answer(world, asked(1, "s"))


async def test_requests_that_offer_tools_and_name_no_conversation_stay():
    world = RouterWorld()
    await use(world, SPLIT.moved((1.0,), {}))
    assert await answer(world, asked(1, None, tools=[{"type": "function"}])) == ("a", "active")
    assert await answer(world, asked(1, "s", tools=[{"type": "function"}])) == ("b", "canary")


async def test_a_candidate_that_fails_or_is_full_costs_no_client_its_answer():
    world = RouterWorld()
    await use(world, SPLIT.moved((1.0,), {}))
    world.models["b"].fails_at, world.models["b"].error = 0, EngineError("broken")
    assert await answer(world, asked(1)) == ("a", "fallback")
    assert world.outcomes[0] == ("b", "canary", False)
    await use(world, Split("rollout-2", (Share(Target("b", 1, 0), 1.0),)))
    assert await answer(world, asked(2)) == ("a", "active")


def test_memory_for_conversations_is_bounded_and_ends_with_the_rollout():
    began = Conversations(most=10)
    for mark in range(100):
        began.add("x", mark, 1)
    assert (began.began("x", 99), began.began("x", 0)) == (1, None)
    began.keep(["y"])
    assert began.began("x", 99) is None
    many = {mark: ACTIVE for mark in range(60_000)}
    assert next(iter(SPLIT.moved((0.5,), many).kept)) == 10_000


def test_another_rollout_divides_otherwise_and_a_table_keeps_its_split():
    one, other = SPLIT, Split("rollout-2", SPLIT.shares)
    same = sum((one.mark(f"s{n}") < 2**63) == (other.mark(f"s{n}") < 2**63) for n in range(1000))
    assert 400 < same < 600
    split = Split("x", (Share(B, 0.2), Share(C, 0.3, out=True)), (0.1, 0.0), {7: 2, 2**64 - 1: 0})
    table = with_split(RouterWorld().table, "t", split)
    assert RouteTable.from_doc(orjson.loads(orjson.dumps(table.to_doc()))) == table


def test_a_table_saved_before_there_were_several_candidates_still_loads():
    table = with_split(RouterWorld().table, "t", SPLIT.opened((0.25,)).moved((0.25,), {7: ACTIVE}))
    doc = table.to_doc()
    target = doc["routes"]["t"]["split"]["shares"][0]["target"]
    doc["routes"]["t"]["split"] = {
        "candidate": target,
        "weight": 0.25,
        "salt": "rollout-1",
        "opening": 0.0,
        "kept": [7],
    }
    assert RouteTable.from_doc(doc) == table
    doc["routes"]["t"]["split"]["opening"] = 0.5
    assert RouteTable.from_doc(doc).routes["t"].split.opening == (0.5,)


async def test_no_conversation_sees_two_models_while_weights_rise_and_fall():
    rng = random.Random(4)
    replicas = [RouterWorld(), RouterWorld()]
    split = Split("test-1", (Share(B, 0.0), Share(C, 0.0)))
    seen: dict[str, set[str]] = {}
    alive: list[str] = []
    told: Counter = Counter()
    for number, weights in enumerate([(0.3, 0.3), (0.1, 0.6), (0.5, 0.05), (0.2, 0.2)]):
        split = await step_of(split, weights, replicas, rng)
        alive += [f"s-{number}-{n}" for n in range(300)]
        for n in range(4000):
            conversation = rng.choice(alive)
            model, _ = await answer(rng.choice(replicas), asked(n, conversation))
            seen.setdefault(conversation, set()).add(model)
        told = Counter([(await answer(replicas[0], asked(n)))[0] for n in range(10_000)])
        assert told["b"] / 10_000 == pytest.approx(weights[0], abs=0.015)
        assert told["c"] / 10_000 == pytest.approx(weights[1], abs=0.015)
    assert all(len(models) == 1 for models in seen.values())
    assert set.union(*seen.values()) == {"a", "b", "c"}


async def test_a_candidate_that_is_taken_out_gives_its_conversations_to_the_active_model():
    """And nobody else moves, although nothing was opened before."""
    world = RouterWorld()
    split = Split("test-1", (Share(B, 0.3), Share(C, 0.3)))
    await use(world, split)
    before = {n: (await answer(world, asked(n, f"s{n}")))[0] for n in range(300)}
    await use(world, split.without("b"))
    after = {n: (await answer(world, asked(n, f"s{n}")))[0] for n in range(300)}
    assert {model for n, model in after.items() if before[n] == "b"} == {"a"}
    assert all(before[n] in ("b", model) for n, model in after.items())


async def test_a_model_that_is_unloaded_is_taken_out_of_the_split_at_once():
    table = with_split(RouterWorld().table, "t", SPLIT)
    assert with_model(table, "b", B, {}).routes["t"].split == SPLIT
    assert with_model(table, "b", None, {}).routes["t"].split.shares[0].out
    assert with_model(table, "b", Target("b", 2, 4), {}).routes["t"].split.shares[0].out
