"""A look of the learning actor: when it returns, what outlasts a restart, and bad luck."""

import asyncio
import time

import orjson
import pytest

from hotswap_ray.core.autoswap.decide import Settings
from hotswap_ray.core.autoswap.view import TaskView
from hotswap_ray.core.errors import Conflict, NotFound, Overloaded, StoreError
from hotswap_ray.core.evidence.cell import Evidence
from hotswap_ray.core.outcome import Outcome
from hotswap_ray.store import Store
from tests.worlds.learning import CAREFREE, LearningWorld, collapse
from tests.worlds.store import ScriptedStore
from tests.worlds.until import until


@pytest.fixture
def store(store_url):
    opened = ScriptedStore(store_url)
    yield opened
    opened.close()


@pytest.fixture
def world(store):
    return LearningWorld(store)


# --- when it returns -------------------------------------------------------------------------


async def test_a_look_waits_as_long_as_it_may_when_nothing_happens(world):
    began = time.monotonic()
    found = await world.look(wait_s=0.05)
    assert time.monotonic() - began >= 0.04
    assert [f.decision.reason for f in found.findings] == ["few_samples"]


async def test_an_alarm_ends_the_wait_of_a_look_and_is_told_once(world):
    await world.look()
    await world.see(*[1.0] * 200)
    await world.see(*[1.0] * 40, model="b", decision="explore")
    await world.look()
    waiting = asyncio.create_task(world.look(wait_s=600))
    while not waiting.done():
        await world.see(0.0)
    found = await waiting
    assert [(alarm.task, alarm.model) for alarm in found.alarms] == [("t", "a")]
    assert found.alarms[0].recent < 0.8
    assert found.findings[0].decision.reason == "collapsed"
    assert (await world.look()).alarms == ()


async def test_a_nudge_ends_the_wait_also_when_it_comes_first(world):
    waiting = asyncio.create_task(world.look(wait_s=600))
    await until(lambda: not waiting.done())
    await world.actor.nudge()
    assert (await waiting).findings
    await world.actor.nudge()
    assert (await world.look(wait_s=600)).findings


async def test_what_is_believed_of_each_model_is_there_for_the_ingress(world):
    assert await world.actor.arms() == {}
    await world.look()
    assert {arm.model for arm in (await world.actor.arms())["t"]} == {"a", "b"}
    world.views = [TaskView("t", "a", ("b",), Settings(mode="off"))]
    await world.look()
    assert await world.actor.arms() == {}


# --- restarts --------------------------------------------------------------------------------


async def test_a_restart_goes_on_with_the_comparisons_that_were_there(world):
    await world.look()
    await world.pairs(12)
    assert await world.comparisons() == 12
    world.restart()
    assert await world.comparisons() == 12
    await world.pairs(3)
    assert await world.comparisons() == 15
    assert (await world.look()).findings[0].decision.action == "promote"


async def test_a_restart_between_a_decision_and_its_swap_decides_the_same(world):
    await world.look()
    await world.pairs(40)
    before = (await world.look()).findings[0].decision
    world.restart()
    await world.see(*[None] * 20, decision="pinned")  # how much traffic there is, it sees anew
    after = (await world.look()).findings[0].decision
    assert (before.action, before.model) == (after.action, after.model) == ("promote", "b")
    assert (before.log_e, before.samples) == (after.log_e, after.samples)


async def test_after_the_swap_a_restart_does_not_bring_the_old_comparisons_back(world):
    await world.look()
    await world.pairs(40)
    await world.look()
    world.views = [TaskView("t", "b", ("a",), CAREFREE, previous="a", automatic=True)]
    assert await world.comparisons("a") == 0
    world.restart()
    assert await world.comparisons("a") == 0
    inputs = (await world.look()).findings[0].inputs
    assert (inputs["previous"], inputs["recent_swaps"]) == ("a", 1)


async def test_evidence_that_a_fall_made_void_does_not_come_back_with_a_restart(world):
    world.views = [TaskView("t", "a", (), CAREFREE)]
    await collapse(world)
    found = await world.look()
    assert found.findings[0].decision.reason == "collapsed_without_alternative"
    assert await world.quality() is None
    world.restart()
    assert await world.quality() is None


async def test_evidence_that_is_void_after_an_emergency_swap_does_not_come_back_either(world):
    await collapse(world)
    assert (await world.look()).findings[0].decision.model == "b"
    assert await world.quality() is not None  # the emergency still rests on it
    world.views = [TaskView("t", "b", ("a",), CAREFREE, automatic=True)]
    await world.look()
    assert await world.quality("a") is None
    world.restart()
    assert await world.quality("a") is None
    assert await world.quality("b") == 1.0


async def test_while_the_store_refuses_a_look_still_finds_and_is_saved_later(world):
    await collapse(world)
    world.store.refuses = True
    found = await world.look()
    assert found.findings[0].decision.reason == "collapsed"
    assert len(found.alarms) == 1
    world.views = [TaskView("t", "b", ("a",), CAREFREE, automatic=True)]
    await world.look()
    world.store.refuses = False
    await world.look()
    world.restart()
    assert await world.quality("a") is None
    assert world.store.load_experiments()["t"]["active"] == "b"


async def test_a_task_whose_mode_was_off_meanwhile_starts_its_tests_anew(world):
    await world.look()
    await world.pairs(12)
    world.views = [TaskView("t", "a", ("b",), Settings(mode="off"))]
    await world.look()
    world.views = [TaskView("t", "a", ("b",), CAREFREE)]
    assert await world.comparisons() == 0


# --- bad input, bad luck ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "nonsense",
    [
        {"quality": 1.5},
        {"quality": -0.1},
        {"quality": float("nan")},
        {"quality": float("inf")},
        {"latency_ms": -1.0},
        {"latency_ms": float("nan")},
        {"latency_ms": float("inf")},
        {"ttft_ms": -1.0},
    ],
    ids=str,
)
async def test_impossible_answers_teach_nothing_and_count_for_no_test(world, nonsense):
    await world.look()
    await world.see(None, model="b", decision="explore", **{"quality": 0.0, **nonsense})
    await world.see(1.0)
    assert await world.comparisons() == 0
    assert (await world.actor.health())["invalid_outcomes"] == 1
    assert await world.quality() == 1.0
    await world.see(0.0, model="b", decision="explore")
    await world.see(1.0)
    assert await world.comparisons() == 1


async def test_outcomes_out_of_order_are_compared_all_the_same(world):
    await world.look()
    copies, answers = [], []
    for n in range(15):
        copies.append(Outcome(f"shadow-q{n}", "t", "b", 1, "shadow", 9e9 - n, True, 1.0, quality=1))
        answers.append(Outcome(f"q{n}", "t", "a", 1, "shadowed", n, True, 1.0, quality=0))
    await world.actor.record(copies[::-1], "copies")
    await world.actor.record(answers, "answers")
    await world.actor.record(answers, "answers")  # again
    assert await world.comparisons() == 15


async def test_a_score_before_its_answer_waits_and_then_counts_for_the_test(store):
    world = LearningWorld(store, feedback_wait_s=5)
    await world.look()
    await world.actor.feedback(await world.see(None), 1.0)  # people judge here
    await world.see(0.5, model="b", decision="explore")
    early = asyncio.create_task(world.actor.feedback(f"r{world.number + 1}", 0.5))
    await until(lambda: world.actor._desk.waiting == 1)
    assert await world.comparisons() == 0
    await world.see(None)
    assert (await early)["model"] == "a"
    assert await world.comparisons() == 1


async def test_a_score_given_twice_counts_once_and_days_late_for_the_task_only(world):
    await world.look()
    name = await world.see(None)
    for _ in range(2):
        await world.actor.feedback(name, 0.9, source="k")
    with pytest.raises(Conflict):
        await world.actor.feedback(name, 0.1, source="k")
    late = await world.see(None, model="b", decision="explore")
    world.restart()  # what waited for a score is forgotten, what was answered is not
    world.clock.now_s += 5 * 86_400
    await world.look()
    await world.actor.feedback(late, 0.4, source="k")
    assert await world.comparisons() == 0
    assert (await world.quality("a"), await world.quality("b")) == (0.9, 0.4)


async def test_a_key_that_floods_is_refused_and_others_are_not(store):
    world = LearningWorld(store, feedback_per_minute=3)
    names = [await world.see(None) for _ in range(12)]
    for name in names[:3]:
        await world.actor.feedback(name, 1.0, source="flood")
    with pytest.raises(Overloaded, match="3 scores within a minute") as caught:
        await world.actor.feedback(names[3], 1.0, source="flood")
    assert caught.value.retry_after_s == 10.0
    for name in names[3:6]:
        await world.actor.feedback(name, 0.5, source="other")
    for name in names[6:]:
        await world.actor.feedback(name, 0.5)  # trusted: not limited
    with pytest.raises(Overloaded):
        await world.actor.feedback(names[0], 1.0, source="flood")
    (row,) = await world.actor.learnings()
    assert row["quality_count"] == 12


async def test_scores_of_one_key_bring_no_promotion_unless_the_operator_allows_it(store, tmp_path):
    alone = LearningWorld(store)
    trusting = LearningWorld(Store(f"sqlite:///{tmp_path}/o.db"), one_key_decides=True)
    for world in (alone, trusting):
        await world.look()
        await world.actor.feedback(await world.see(None), 0.5)
        for _ in range(60):
            await world.actor.feedback(await world.see(None), 0.0, source="k")
            name = await world.see(None, model="b", decision="explore")
            await world.actor.feedback(name, 1.0, source="k")
    assert (await alone.look()).findings[0].decision.action != "promote"
    assert (await trusting.look()).findings[0].decision.action == "promote"


async def test_a_score_for_an_answer_that_was_pruned_is_not_found(store):
    world = LearningWorld(store, retention_s=86_400, checkpoint_rows=1)
    name = await world.see(None)
    world.clock.now_s += 2 * 86_400
    await world.see(None)
    with pytest.raises(NotFound):
        await world.actor.feedback(name, 1.0)


async def test_a_task_that_nobody_can_serve_within_its_limits_is_said_to_be_so(world):
    world.views = [TaskView("t", "a", (), CAREFREE, meets_limits=False)]
    decision = (await world.look()).findings[0].decision
    assert (decision.action, decision.reason) == ("undecided", "unknown_active")
    world.views = [TaskView("t", "a", (), CAREFREE)]
    decision = (await world.look()).findings[0].decision
    assert (decision.action, decision.reason) == ("stay", "no_candidate")


async def test_learnings_of_the_oldest_schema_are_evidence_but_no_proof(world):
    old = Evidence("t", "b")
    old.update(Outcome("x", "t", "b", 1, "active", 5.0, True, 20.0, quality=0.7))
    doc = {"kind": "evidence", "schema": 1, "origin": "old", "doc": old.to_doc()}
    line = orjson.dumps(doc).decode()
    assert (await world.actor.import_lines([line]))["evidence"] == 1
    assert await world.quality("b") == pytest.approx(0.7)
    await world.look()
    assert await world.comparisons() == 0


async def test_a_look_that_cannot_save_raises_nothing_and_health_tells(world):
    await world.look()
    await world.pairs(2)
    world.store.refuses = True
    assert (await world.look()).findings
    with pytest.raises(StoreError):
        await world.see(1.0)
    assert not (await world.actor.health())["ok"]
    world.store.refuses = False
    await until(lambda: world.actor._log.rows == 0)
    await world.look()
    world.restart()
    assert await world.comparisons() == 2
