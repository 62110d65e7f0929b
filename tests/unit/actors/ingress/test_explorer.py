"""Candidates get a share of the requests, or copies of them, and no client pays for it."""

from collections import Counter
from dataclasses import replace

import orjson
import pytest

from hotswap_ray.actors.cluster.judge_here import judge_here
from hotswap_ray.actors.ingress.call import Call
from hotswap_ray.actors.ingress.router import Router
from hotswap_ray.config.sections import ServerConfig
from hotswap_ray.core.answers.judge_messages import Judgement
from hotswap_ray.core.errors import EngineError, EngineUnavailable
from hotswap_ray.core.policies.selection import Arm
from hotswap_ray.core.routing.table import RouteTable, Trial, with_model, with_route, with_trials
from hotswap_ray.core.spec.autoswap import AutoswapSpec
from hotswap_ray.core.spec.golden import Check
from hotswap_ray.core.spec.task import TaskSpec
from tests.worlds.router import A, B, C, RouterWorld, settle

PARIS = Check(kind="contains", value="Paris")
ARMS = {"t": (Arm("a", 100, belief=0.5), Arm("b", 100, belief=0.9), Arm("c", 100, belief=0.1))}


class Trying(RouterWorld):
    """A router whose task ``t`` is served by ``a`` and tries others."""

    def __init__(self, trial, checks=(), arms=ARMS, **spec):
        super().__init__()
        specs = {"t": AutoswapSpec(**{"seed": 1, **spec})}
        tasks = {"t": TaskSpec(id="t", model="a", checks=checks)}
        self.router = Router(
            ServerConfig(), self.connect, lambda: self.now_s, self.on_drained, tasks, specs
        )
        self.router.explorer.arms = arms
        self.table = with_trials(self.table, {"t": trial})

    async def ask(self, number=1, model="auto"):
        await self.router.apply(self.table)
        told = []
        for n in range(number):
            assignment, _ = await self.router.generate(
                Call(f"r{n}", "completions", {"prompt": "x", "stream": False}, model, "t")
            )
            told.append((assignment.target.model, str(assignment.decision)))
        return Counter(told)


async def test_a_share_of_the_requests_goes_to_the_candidate_that_the_policy_prefers():
    told = await Trying(Trial((B, C), explore=0.2)).ask(2000)
    assert set(told) >= {("a", "active"), ("b", "explore")}
    explored = told["b", "explore"] + told["c", "explore"]
    assert explored == pytest.approx(400, abs=60)
    assert told["b", "explore"] > 5 * told["c", "explore"]


async def test_the_same_seed_makes_the_same_choices():
    first = await Trying(Trial((B, C), explore=0.3)).ask(300)
    second = await Trying(Trial((B, C), explore=0.3)).ask(300)
    assert first == second


async def test_a_policy_that_serves_decides_about_every_request():
    told = await Trying(Trial((B, C), by_policy=True)).ask(300)
    assert told["b", "explore"] > 200
    fixed = Trying(Trial((B, C), by_policy=True), policy="fixed", policy_options={"model": "a"})
    assert await fixed.ask(50) == {("a", "active"): 50}


@pytest.mark.parametrize("arms", [{}, {"t": (Arm("a"),)}])
async def test_nothing_is_tried_that_nothing_can_be_learned_from(arms):
    world = Trying(Trial((B, C), explore=0.5, shadow=1.0), arms=arms)
    assert await world.ask(100) == {("a", "active"): 100}
    assert world.router.shadows.sent == 0


async def test_pinned_requests_are_neither_moved_nor_copied():
    world = Trying(Trial((B, C), explore=0.5, shadow=1.0))
    assert await world.ask(50, model="c") == {("c", "pinned"): 50}
    assert world.router.shadows.sent == 0


async def test_a_candidate_that_fails_costs_the_client_nothing():
    world = Trying(Trial((B,), explore=0.5))
    world.models["b"].fails_at, world.models["b"].error = 0, EngineError("broken")
    told = await world.ask(200)
    assert set(told) == {("a", "active"), ("a", "fallback")}
    assert ("b", "explore", False) in world.outcomes  # and it is known for it


async def test_a_candidate_that_is_gone_is_tried_no_more():
    world = Trying(Trial((B,), explore=0.5))
    world.models["b"].fails_at, world.models["b"].error = 0, EngineUnavailable("gone")
    world.models["b"].pings = False
    await world.ask(100)
    assert Counter(world.outcomes)["b", "explore", False] == 1


async def test_a_candidate_without_room_is_not_tried():
    world = Trying(Trial((replace(B, limit=0),), explore=0.5))
    assert await world.ask(100) == {("a", "active"): 100}


async def test_a_policy_that_is_broken_costs_no_client_its_answer(monkeypatch):
    world = Trying(Trial((B,), explore=0.5))

    class Broken:
        def select(self, snapshot, rng):
            raise KeyError("no idea")

        def update(self, arm, reward):
            raise AssertionError

    world.router.explorer._policies["t"] = Broken()
    assert await world.ask(50) == {("a", "active"): 50}
    assert world.router.explorer.failures > 0


async def test_a_copy_goes_to_the_candidate_after_the_answer_and_both_are_recorded():
    world = Trying(Trial((B,), shadow=1.0), checks=(PARIS,))
    world.models["b"].gate.clear()
    assert await world.ask() == {("a", "active"): 1}  # although the copy hangs
    assert world.router.in_flight == {B.app: 1}  # b is not idle while the copy is at work
    world.models["b"].gate.set()
    await settle()
    while await world.router.recorder.judge_pending(judge_here):
        pass
    rows = {o.request_id: (o.model, o.decision) for o in world.router.recorder.outcomes}
    assert rows == {"r0": ("a", "shadowed"), "shadow-r0": ("b", "shadow")}


async def test_a_streamed_request_is_copied_too():
    world = Trying(Trial((B,), shadow=1.0))
    await world.router.apply(world.table)
    opened = await world.router.open(Call("r", "completions", {"stream": True}, "auto", "t"))
    async for _ in opened.rest:
        pass
    await settle()
    assert sorted(o.decision for o in world.router.recorder.outcomes) == ["shadow", "shadowed"]


async def test_copies_are_dropped_first_when_there_are_too_many():
    world = Trying(Trial((B,), shadow=1.0), shadow_at_once=2)
    world.models["b"].gate.clear()
    await world.ask(10)
    assert (world.router.shadows.sent, world.router.shadows.dropped) == (2, 8)
    decisions = Counter(o.decision for o in world.router.recorder.outcomes)
    assert decisions == {"shadowed": 2, "active": 8}  # who was not copied is no half of a pair
    world.models["b"].gate.set()
    await settle()


async def test_copies_are_dropped_while_the_replica_has_no_time_to_spare():
    world = Trying(Trial((B,), shadow=1.0), shadow_at_once=100)
    busy = iter([True, True, False, True])
    world.router.shadows.busy = lambda: next(busy)
    assert await world.ask(4) == {("a", "active"): 4}
    await settle()
    assert (world.router.shadows.sent, world.router.shadows.dropped) == (1, 3)
    assert Counter(o.decision for o in world.router.recorder.outcomes) == {
        "active": 3,
        "shadowed": 1,
        "shadow": 1,
    }


async def test_copies_take_at_most_half_of_a_models_room():
    world = Trying(Trial((replace(B, limit=4),), shadow=1.0), shadow_at_once=100)
    world.models["b"].gate.clear()
    await world.ask(10)
    assert world.router.in_flight[B.app] == 2
    world.models["b"].gate.set()
    await settle()


async def test_a_copy_that_fails_is_the_candidates_failure_only():
    world = Trying(Trial((B,), shadow=1.0))
    world.models["b"].fails_at = 0
    assert await world.ask() == {("a", "active"): 1}
    await settle()
    assert sorted(world.outcomes) == [("a", "shadowed", True), ("b", "shadow", False)]


async def test_answers_of_a_task_with_checks_get_their_quality_and_others_wait_for_nobody():
    world = Trying(None, checks=(PARIS,))
    await world.ask(2)
    assert not world.router.recorder.outcomes
    texts = iter(["Paris", "Rome"])

    async def judge(jobs):
        made = [orjson.dumps({"choices": [{"index": 0, "text": next(texts)}]}) for _ in jobs]
        assert [job.answer for job in jobs] == [b"a", b"a"]
        return await judge_here([replace(j, answer=a) for j, a in zip(jobs, made, strict=True)])

    assert await world.router.recorder.judge_pending(judge) == 2
    assert [o.quality for o in world.router.recorder.take()] == [1.0, 0.0]
    assert world.router.recorder.outcomes == []


async def test_a_judge_that_dies_costs_the_quality_and_not_the_outcome():
    world = Trying(None, checks=(PARIS,))
    await world.ask(1)

    async def judge(jobs):
        raise RuntimeError("died")

    with pytest.raises(RuntimeError):
        await world.router.recorder.judge_pending(judge)
    assert [o.quality for o in world.router.recorder.outcomes] == [None]


async def test_answers_are_not_kept_without_end_for_a_judge_that_is_slow(monkeypatch):
    monkeypatch.setattr("hotswap_ray.actors.ingress.recorder.MOST_WAITING", 5)
    world = Trying(None, checks=(PARIS,))
    await world.ask(8)
    assert len(world.router.recorder.outcomes) == world.router.recorder.unjudged == 3

    async def judge(jobs):
        return [Judgement(1.0)] * len(jobs)

    assert await world.router.recorder.judge_pending(judge) == 5


def test_a_trial_ends_with_its_model_and_with_every_swap():
    table = RouteTable(1, "t", RouterWorld().table.routes, {"a": A, "b": B, "c": C})
    table = with_trials(table, {"t": Trial((B, C), explore=0.1)})
    assert RouteTable.from_doc(orjson.loads(orjson.dumps(table.to_doc()))) == table
    assert with_model(table, "b", None, {}).routes["t"].trial.candidates == (C,)
    assert with_model(table, "b", replace(B, generation=2), {}).routes["t"].trial.candidates == (C,)
    assert with_route(table, "t", B, {}).routes["t"].trial is None
