"""Live results become evidence for tests only as far as they are a fair sample."""

import random

import pytest

from hotswap_ray.core.autoswap.decide import Settings
from hotswap_ray.core.autoswap.decider import Decider
from hotswap_ray.core.autoswap.view import ModelFacts, TaskView
from hotswap_ray.core.evidence.learnings import Learnings
from hotswap_ray.core.outcome import Outcome
from hotswap_ray.core.spec.price import Price
from hotswap_ray.core.spec.task import Preferences, Requirements, TaskSpec

MODELS = {"a": ModelFacts(), "b": ModelFacts()}


class World:
    """One task ``t`` served by ``a``; a clock; requests numbered."""

    def __init__(self, trusted=False, **view):
        self.learned = Learnings(500)
        self.learned.configure([TaskSpec(id="t", model="a")])
        self.decider = Decider(self.learned, trusted)
        self.alarms = 0
        self.decider.on_alarm = self._alarm
        view.setdefault("settings", Settings(cooldown_s=0))
        self.view = TaskView("t", "a", ("b",), **view)
        self.models = MODELS
        self.now_s = 1000.0
        self.number = 0
        self.look()

    def _alarm(self):
        self.alarms += 1

    def look(self, **changed):
        if changed:
            fields = {name: getattr(self.view, name) for name in TaskView.__dataclass_fields__}
            self.view = TaskView(**{**fields, **changed})
        self.now_s += 1
        return self.decider.look([self.view], self.models, self.now_s)

    def decision(self, **changed):
        return self.look(**changed).findings[0].decision

    def see(self, model, quality=None, decision="active", success=True, request_id=None, **more):
        self.number += 1
        more.setdefault("latency_ms", 10.0)
        outcome = Outcome(
            request_id or f"r{self.number}", "t", model, 1, decision, self.now_s, success,
            quality=quality, **more,
        )  # fmt: skip
        self.learned.fold([outcome])
        self.decider.take([outcome])
        return outcome.request_id

    def vote(self, request_id, model, score, source=None):
        self.learned.score(("t", model), score)
        self.decider.score(("t", model), request_id, score, source)

    def comparisons(self, model="b"):
        rows = {row["model"]: row for row in self.look().findings[0].inputs["models"]}
        return rows[model].get("comparisons", 0)


def test_a_candidate_that_is_better_on_a_share_of_the_traffic_is_promoted():
    world, rng = World(explore=0.5), random.Random(1)
    for _ in range(300):
        world.see("a", float(rng.random() < 0.5))
        world.see("b", float(rng.random() < 0.9), "explore")
    decision = world.decision()
    assert (decision.action, decision.reason, decision.model) == ("promote", "better", "b")


@pytest.mark.parametrize("first_seen", [None, "a"])
def test_the_old_model_takes_over_again_when_it_proves_better_while_it_is_warm(first_seen):
    world = World()
    world.look(active="b", candidates=("a",), previous=first_seen)
    world.look(previous="a")
    for number in range(60):
        world.see("b", 0.0, "shadowed", request_id=f"p{number}")
        world.see("a", 1.0, "shadow", request_id=f"shadow-p{number}")
    decision = world.decision()
    assert (decision.action, decision.reason, decision.model) == (
        "roll_back",
        "worse_than_before",
        "a",
    )
    assert world.decision(previous=None).action == "promote"  # nothing is warm any more


def test_requests_that_a_client_pinned_or_a_failure_moved_are_no_fair_sample():
    world = World(explore=0.5)
    for decision in ("pinned", "fallback", "reported", "golden"):
        for _ in range(100):
            world.see("a", 0.0, decision)
            world.see("b", 1.0, decision)
    assert world.comparisons() == 0


def test_two_answers_to_one_prompt_are_one_comparison_whichever_comes_first():
    world = World()
    for n in range(20):
        first, second = (("a", "shadowed"), ("b", "shadow"))[:: 1 if n % 2 else -1]
        for model, decision in (first, second):
            name = f"q{n}" if decision == "shadowed" else f"shadow-q{n}"
            world.see(model, 1.0 if model == "b" else 0.0, decision, request_id=name)
    assert world.comparisons() == 20
    assert world.decision().action == "promote"


def test_a_copy_that_nobody_could_judge_is_no_comparison():
    world = World()
    world.see("a", 1.0, "shadowed", request_id="q")
    world.see("b", None, "shadow", request_id="shadow-q")
    assert world.comparisons() == 0


def test_an_answer_of_a_judged_task_waits_for_its_score():
    world = World(explore=0.5)
    world.vote(world.see("a"), "a", 1.0)  # from now on answers are judged
    asked = [(world.see(m, None, d), m) for m, d in (("b", "explore"), ("a", "active"))]
    assert world.comparisons() == 0
    for request_id, model in asked:
        world.vote(request_id, model, 0.5)
    assert world.comparisons() == 1


def test_the_first_score_starts_the_tests_anew_for_success_is_not_quality():
    world = World(explore=0.5)
    for _ in range(30):
        world.see("b", None, "explore", success=False)
        world.see("a")
    assert world.comparisons() == 30
    world.vote(world.see("a"), "a", 1.0)
    assert world.comparisons() == 0


def test_scores_that_come_days_late_or_twice_count_for_the_task_but_not_for_the_test():
    world = World(explore=0.5)
    request_id = world.see("a")
    world.vote(request_id, "a", 1.0)
    world.vote("forgotten-long-ago", "b", 1.0)
    world.vote(request_id, "a", 1.0)
    assert world.comparisons() == 0
    assert world.learned.cells["t", "b"].quality_count == 1


def test_where_few_people_vote_failures_count_no_more_than_answers_do():
    """2% of b's answers fail, 5% are scored, all scored 1: b is not much worse than a."""
    rng, world = random.Random(3), World(explore=0.5)
    for _ in range(4000):
        for model, decision in (("a", "active"), ("b", "explore")):
            failed = model == "b" and rng.random() < 0.02
            request_id = world.see(model, None, decision, success=not failed)
            if not failed and rng.random() < 0.05:
                world.vote(request_id, model, 1.0)
    rows = {row["model"]: row for row in world.look().findings[0].inputs["models"]}
    assert -0.06 < rows["b"]["difference"] < 0.0  # -0.29 if every failure counted


def test_one_key_cannot_bring_about_a_promotion_and_two_honest_ones_can():
    troll, crowd, mixed = World(explore=0.5), World(explore=0.5), World(explore=0.5)
    says = {"troll": (0.0, 1.0), "x": (0.3, 0.9), "y": (0.2, 0.8), "even": (0.7, 0.7)}
    for world, keys in (
        (troll, ["troll"]),
        (crowd, ["x", "y"]),
        (mixed, ["even", "troll", "troll", "even", "troll", "troll"]),
    ):
        world.vote(world.see("a"), "a", 0.5)
        for n in range(400):
            key = keys[n % len(keys)]
            for model, decision, score in zip("ab", ("active", "explore"), says[key], strict=True):
                world.vote(world.see(model, None, decision), model, score, key)
    assert troll.decision().action != "promote"
    assert mixed.decision().action != "promote"  # who is honest says that they are equal
    assert crowd.decision().action == "promote"


def test_one_key_cannot_raise_an_alarm_either():
    world = World(explore=0.5)
    for n in range(300):
        world.vote(world.see("a"), "a", 0.9, f"key{n % 5}")
    for _ in range(300):
        world.vote(world.see("a"), "a", 0.0, "troll")
    assert world.alarms == 0


def test_a_key_that_is_trusted_alone_counts_in_full():
    world = World(trusted=True, explore=0.5)
    world.vote(world.see("a"), "a", 0.5)
    for _ in range(200):
        world.vote(world.see("a"), "a", 0.0, "only")
        world.vote(world.see("b", None, "explore"), "b", 1.0, "only")
    assert world.decision().action == "promote"


def test_a_golden_prompt_is_compared_once_however_often_it_is_asked():
    world = World()
    for run in range(5):
        for n in range(12):
            for model in ("b", "a"):
                name = f"bench-x{run}-{n:016x}-{model}"
                world.see(model, float(model == "b"), "bench", request_id=name)
    assert world.comparisons() == 12


def test_a_collapse_is_an_emergency_that_knows_no_cooldown_and_is_then_forgotten():
    rng = random.Random(5)
    world = World(settings=Settings(cooldown_s=1e9), explore=0.3)
    for _ in range(400):
        world.see("a", float(rng.random() < 0.95))
        world.see("b", float(rng.random() < 0.9), "explore")
    assert world.decision().action in ("undecided", "stay")
    while not world.alarms:
        world.see("a", float(rng.random() < 0.5))
    found = world.look()
    assert [(alarm.task, alarm.model) for alarm in found.alarms] == [("t", "a")]
    decision = found.findings[0].decision
    assert (decision.action, decision.reason, decision.model) == ("promote", "collapsed", "b")
    # Not yet swapped: the next look still says so, without a second event.
    again = world.look()
    assert (again.findings[0].decision.reason, again.alarms) == ("collapsed", ())
    world.view = TaskView("t", "b", ("a",), Settings(), automatic=True)
    assert world.decision().reason != "collapsed"
    assert world.learned.cells["t", "a"].quality.weight == 0  # back to its prior


def test_a_collapse_without_alternative_is_told_once_and_tests_reopen():
    world = World(explore=0.0)
    for _ in range(200):
        world.see("a", 1.0)
    while not world.alarms:
        world.see("a", 0.0)
    assert world.decision().reason == "collapsed_without_alternative"
    assert world.decision().reason != "collapsed_without_alternative"


def test_a_task_whose_mode_is_off_is_not_observed():
    world = World()
    assert world.decision(settings=Settings(mode="off")).reason == "off"
    world.see("b", 1.0, "explore")
    assert world.decider.changed_docs() == []


def test_advice_is_a_decision_that_does_not_apply():
    world = World(settings=Settings(mode="advise", cooldown_s=0))
    for n in range(40):
        world.see("a", 0.0, "shadowed", request_id=f"q{n}")
        world.see("b", 1.0, "shadow", request_id=f"shadow-q{n}")
    decision = world.decision()
    assert (decision.action, decision.applies) == ("promote", False)


def test_a_model_that_misses_the_latency_limit_is_no_candidate_and_an_active_one_is_named():
    world = World(explore=0.5)
    limits = Requirements(max_latency_ms=50)
    world.learned.configure([TaskSpec(id="t", model="a", requirements=limits)])
    for _ in range(30):
        world.see("a", 0.1)
        world.see("b", 1.0, "explore", latency_ms=500.0)
    assert world.decision().reason == "no_candidate"
    for _ in range(60):
        world.see("a", 0.1, latency_ms=500.0)
    assert world.decision().reason == "unknown_active"


def test_cost_counts_where_the_task_says_so():
    world = World(explore=0.5)
    world.models = {"a": ModelFacts(Price(0, 100)), "b": ModelFacts(Price(0, 1))}
    spec = TaskSpec(id="t", model="a", preferences=Preferences(quality=1, cost=1))
    world.learned.configure([spec])
    for _ in range(20):  # what is usual has to be known first
        world.see("a", 0.8, tokens_out=100)
        world.see("b", 0.8, "explore", tokens_out=100)
    world.look()
    for _ in range(200):
        world.see("a", 0.8, tokens_out=100)
        world.see("b", 0.8, "explore", tokens_out=100)
    decision = world.decision()
    assert (decision.action, decision.model) == ("promote", "b")


def test_two_equal_models_over_many_requests_swap_at_most_once():
    rng, world = random.Random(11), World(explore=0.5)
    swaps, active = 0, "a"
    for n in range(20_000):
        other = "b" if active == "a" else "a"
        world.see(active, float(rng.random() < 0.8))
        world.see(other, float(rng.random() < 0.8), "explore")
        if n % 100 == 99:
            decision = world.decision()
            if decision.action in ("promote", "roll_back"):
                swaps, active = swaps + 1, decision.model
                world.view = TaskView(
                    "t", active, (other if other != active else "a",), Settings(cooldown_s=0),
                    automatic=True, explore=0.5,
                )  # fmt: skip
    assert swaps <= 1


def test_experiments_survive_a_restart():
    world = World(explore=0.5)
    for n in range(12):
        world.see("b", 1.0, "bench", request_id=f"bench-x-{n:016x}-b")
        world.see("a", 0.5, "bench", request_id=f"bench-x-{n:016x}-a")
    docs = {doc["task"]: doc for doc in world.decider.changed_docs()}
    assert world.decider.changed_docs() == []
    again = Decider(world.learned)
    again.load(docs)
    finding = again.look([world.view], MODELS, 2000.0).findings[0]
    assert finding.inputs["models"][1]["comparisons"] == 12
    assert again.changed_docs() == []


def test_a_flood_on_one_task_takes_nothing_from_another():
    learned = Learnings(500)
    learned.configure([TaskSpec(id=t, model="a") for t in ("quiet", "flood")])
    decider = Decider(learned)
    views = [TaskView(t, "a", ("b",), Settings(cooldown_s=0)) for t in ("quiet", "flood")]
    decider.look(views, MODELS, 0.0)

    def see(task, number, model, decision, quality):
        name = f"shadow-{number}" if decision == "shadow" else str(number)
        batch = [Outcome(name, task, model, 1, decision, 0.0, True, 1.0, quality=quality)]
        learned.fold(batch)
        decider.take(batch)

    for n in range(40):
        see("quiet", f"q{n}", "a", "shadowed", 0.0)  # its pair comes after the flood
        for m in range(300):
            see("flood", f"f{n}-{m}", "a", "shadowed", 0.5)
    for n in range(40):
        see("quiet", f"q{n}", "b", "shadow", 1.0)
    quiet, flood = decider.look(views, MODELS, 1.0).findings
    assert quiet.decision.action == "promote"
    assert flood.decision.action == "undecided"


def test_useless_models_are_unloaded_only_where_every_task_allows_it():
    world = World(explore=0.5, unload=True)
    rng = random.Random(2)
    for _ in range(1500):
        world.see("a", float(rng.random() < 0.9))
        world.see("b", float(rng.random() < 0.4), "explore")
    assert [f.decision.action for f in world.look().findings] == ["stay", "unload"]
    kept = world.decider.look([world.view], MODELS, world.now_s, kept=frozenset({"b"}))
    assert len(kept.findings) == 1
    assert len(world.look(unload=False).findings) == 1


def test_the_order_of_the_tasks_does_not_change_what_is_unloaded():
    found = {}
    for least in (10, 10_000):  # the second task wants to see more than it ever does
        for order in ("tu", "ut"):
            learned = Learnings(500)
            learned.configure([TaskSpec(id=name, model="a") for name in "tu"])
            decider = Decider(learned)
            each = {
                "t": TaskView("t", "a", ("b",), Settings(), explore=0.5, unload=True),
                "u": TaskView(
                    "u", "a", ("b",), Settings(min_samples=least), explore=0.5, unload=True
                ),
            }
            views = [each[name] for name in order]
            decider.look(views, MODELS, 0.0)
            rng = random.Random(2)
            for n in range(1500):
                for task in "tu":
                    for model, decision, share in (("a", "active", 0.9), ("b", "explore", 0.4)):
                        quality = float(rng.random() < share)
                        name = f"{task}{model}{n}"
                        seen = Outcome(
                            name, task, model, 1, decision, 0.0, True, 1.0, quality=quality
                        )
                        learned.fold([seen])
                        decider.take([seen])
            look = decider.look(views, MODELS, 1.0)
            found[least, order] = [f.decision.model for f in look.findings[2:]]
    assert found == {
        (10, "tu"): ["b"], (10, "ut"): ["b"], (10_000, "tu"): [], (10_000, "ut"): [],
    }  # fmt: skip


@pytest.mark.parametrize("rewards", ["none", "equal"])
def test_without_rewards_or_with_equal_ones_nothing_is_promoted(rewards):
    world = World(explore=0.5)
    world.vote(world.see("a"), "a", 1.0)
    for _ in range(500):
        world.see("a", 0.5 if rewards == "equal" else None)
        world.see("b", 0.5 if rewards == "equal" else None, "explore")
    assert world.decision().action in ("stay", "undecided")
