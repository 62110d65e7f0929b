"""Conversations keep their model through a whole rollout, whichever replica they reach."""

import asyncio
import random
from collections import Counter
from dataclasses import replace

import pytest

from hotswap_ray.actors.call import Call
from hotswap_ray.core.errors import EngineError, EngineUnavailable
from hotswap_ray.core.routes import RouteTable, with_split
from hotswap_ray.core.split import Conversations, Split
from tests.unit.router_world import B, World, settle

SPLIT = Split(B, 0.05, "rollout-1")


async def use(world, split):
    await world.use(with_split(world.table, "t", split))


def asked(number, conversation=None, **body):
    return Call(f"r{number}", "completions", body, "auto", "t", conversation=conversation)


async def answer(world, call):
    choice, _ = await world.router.generate(call)
    return choice.target.model, str(choice.decision)


async def test_weights_are_honoured_within_a_point_over_ten_thousand_conversations():
    world = World()
    for weight in (0.05, 0.5):
        await use(world, replace(SPLIT, weight=weight))
        told = Counter([await answer(world, asked(n)) for n in range(10_000)])
        assert told["b", "canary"] / 10_000 == pytest.approx(weight, abs=0.01)
        assert set(told) == {("a", "active"), ("b", "canary")}


async def test_no_conversation_sees_two_models_while_the_share_grows_over_two_replicas():
    """The steps are made as the controller makes them: open, hear of everybody, commit."""
    rng = random.Random(3)
    replicas = [World(), World()]
    kept: frozenset[int] = frozenset()
    seen: dict[str, set[str]] = {}
    alive: list[str] = []
    weight = 0.0
    for step in (0.05, 0.25, 0.6):
        split = replace(SPLIT, weight=weight, opening=step, kept=kept)
        for world in replicas:
            await use(world, split)
        marks = [w.router.rollout.moving(w.table)["t"] for w in replicas]
        kept = kept | frozenset(mark for some in marks for mark in some)
        split = replace(split, weight=step, opening=0.0, kept=kept)
        # Some requests come between the two commits; those that could go wrong wait.
        early = [
            asyncio.create_task(answer(rng.choice(replicas), asked(0, f"s{rng.random()}")))
            for _ in range(50)
        ]
        await settle()
        for world in replicas:
            await use(world, split)
        await asyncio.gather(*early)
        weight = step
        alive += [f"s-{step}-{n}" for n in range(400)]
        for n in range(4000):
            conversation = rng.choice(alive)
            model, _ = await answer(rng.choice(replicas), asked(n, conversation))
            seen.setdefault(conversation, set()).add(model)
    assert all(len(models) == 1 for models in seen.values())
    newest = [next(iter(models)) for name, models in seen.items() if name.startswith("s-0.6")]
    assert newest.count("b") / len(newest) == pytest.approx(0.6, abs=0.08)


async def test_a_conversation_in_question_waits_for_the_step_and_no_other_does():
    world = World(hold_timeout_s=5)
    opening = replace(SPLIT, opening=0.5)
    places = {n: SPLIT.mark(f"s{n}") / 2**64 for n in range(50)}
    between = next(n for n, place in places.items() if 0.05 < place < 0.5)
    above = next(n for n, place in places.items() if place > 0.5)
    await use(world, opening)
    assert await answer(world, asked(1, f"s{above}")) == ("a", "active")
    waiting = asyncio.create_task(answer(world, asked(2, f"s{between}")))
    await settle()
    assert not waiting.done()
    await use(world, replace(SPLIT, weight=0.5))
    assert await waiting == ("b", "canary")


async def test_a_step_that_is_never_made_costs_a_wait_with_a_limit():
    world = World(hold_timeout_s=0.05)
    await use(world, replace(SPLIT, weight=0.0, opening=1.0))
    with pytest.raises(EngineUnavailable, match="a rollout of task 't' goes on"):
        await answer(world, asked(1, "s"))


async def test_requests_that_offer_tools_and_name_no_conversation_stay():
    world = World()
    await use(world, replace(SPLIT, weight=1.0))
    assert await answer(world, asked(1, None, tools=[{"type": "function"}])) == ("a", "active")
    assert await answer(world, asked(1, "s", tools=[{"type": "function"}])) == ("b", "canary")


async def test_a_candidate_that_fails_or_is_full_costs_no_client_its_answer():
    world = World()
    await use(world, replace(SPLIT, weight=1.0))
    world.models["b"].fails_at, world.models["b"].error = 0, EngineError("broken")
    assert await answer(world, asked(1)) == ("a", "fallback")
    assert world.outcomes[0] == ("b", "canary", False)
    await use(world, Split(replace(B, limit=0), 1.0, "rollout-2"))
    assert await answer(world, asked(2)) == ("a", "active")


def test_memory_for_conversations_is_bounded_and_ends_with_the_rollout():
    began = Conversations(most=10)
    for mark in range(100):
        began.add("x", mark)
    assert began.knows("x", 99)
    assert not began.knows("x", 0)
    began.keep(["y"])
    assert not began.knows("x", 99)


def test_another_rollout_divides_otherwise_and_a_table_keeps_its_split():
    one, other = SPLIT, replace(SPLIT, salt="rollout-2")
    same = sum((one.mark(f"s{n}") < 2**63) == (other.mark(f"s{n}") < 2**63) for n in range(1000))
    assert 400 < same < 600
    table = with_split(World().table, "t", replace(SPLIT, kept=frozenset({7, 2**64 - 1})))
    assert RouteTable.from_doc(table.to_doc()) == table
