"""The decision loop: floors, guard, emergency, hysteresis, price, modes, explanation."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from itertools import permutations

import pytest

from hotswap_ray.core.autoswap.candidate_tests import CandidateTests
from hotswap_ray.core.autoswap.decide import (
    Settings,
    Standing,
    SwapCost,
    TaskState,
    decide,
    unloadable,
)
from hotswap_ray.core.autoswap.explain import CHANGES, SENTENCES, sentence, what_would_change
from hotswap_ray.core.policies.selection import Arm
from hotswap_ray.core.proof.betting import PairTest


def proof(differences: list[float]) -> PairTest:
    test = PairTest()
    test.extend(differences)
    return test


BETTER = proof([1.0, 0.0] * 20)
WORSE = proof([-1.0, 0.0] * 20)
EQUAL = proof([0.0] * 400)
OPEN = proof([1.0, -1.0, 0.0] * 5)
STATE = TaskState(
    "t",
    "a",
    (Standing("a", 0.5, 100, 0.9), Standing("b", 0.8, 100, 0.95)),
    {"b": BETTER},
    requests_per_s=1.0,
)


def test_a_proven_candidate_is_promoted_and_the_sentence_says_why():
    decision = decide(STATE, Settings())
    assert (decision.action, decision.reason, decision.model) == ("promote", "better", "b")
    assert decision.log_e >= decision.log_bar == pytest.approx(math.log(20))
    assert sentence(decision).startswith("t: b replaces a, proven better by +0.500 on 40")


def test_the_same_snapshot_gives_the_same_choice_and_changes_nothing():
    before = BETTER.to_doc()
    assert decide(STATE, Settings()) == decide(STATE, Settings())
    assert BETTER.to_doc() == before


@pytest.mark.parametrize(
    ("state", "settings", "action", "reason"),
    [
        (STATE, Settings(mode="off"), "stay", "off"),
        (replace(STATE, since_swap_s=10.0), Settings(), "stay", "cooldown"),
        (STATE, Settings(min_samples=41), "undecided", "few_samples"),
        (replace(STATE, tests={"b": OPEN}), Settings(), "undecided", "testing"),
        (replace(STATE, tests={}), Settings(), "undecided", "few_samples"),
        (replace(STATE, tests={"b": WORSE}), Settings(), "stay", "settled"),
        (replace(STATE, tests={"b": EQUAL}), Settings(), "stay", "settled"),
        (replace(STATE, active="gone"), Settings(), "undecided", "unknown_active"),
        (replace(STATE, standings=STATE.standings[:1]), Settings(), "stay", "no_candidate"),
        (replace(STATE, requests_per_s=1e-5), Settings(), "stay", "does_not_pay"),
    ],
)
def test_every_reason_to_wait_is_named(state, settings, action, reason):
    decision = decide(state, settings)
    assert (decision.action, decision.reason) == (action, reason)
    assert sentence(decision).endswith(".")
    assert what_would_change(decision)


def test_every_reason_has_a_sentence_and_a_way_out():
    assert SENTENCES.keys() == CHANGES.keys()


def test_advise_decides_and_explains_but_does_not_apply():
    decision = decide(STATE, Settings(mode="advise"))
    assert decision.action == "promote"
    assert not decision.applies
    assert sentence(decision).startswith("advice, not done: ")


def test_among_equals_the_clearly_cheaper_one_wins():
    dear, cheap = Standing("a", 0.5, 100, price=1.0), Standing("b", 0.5, 100, price=0.5)
    state = replace(STATE, standings=(dear, cheap), tests={"b": EQUAL})
    assert decide(state, Settings()).reason == "equivalent_cheaper"
    near = replace(state, standings=(dear, replace(cheap, price=0.95)))
    assert decide(near, Settings()).reason == "settled"


def test_a_low_success_rate_is_an_alarm_and_no_reason():
    poor = (replace(STATE.standings[0], success_rate=0.5), STATE.standings[1])
    decision = decide(replace(STATE, standings=poor, tests={"b": OPEN}), Settings())
    assert decision.action == "undecided"
    assert decision.success_alarm
    assert "alarm: a succeeds too rarely" in sentence(decision)


def test_the_guard_rolls_back_without_a_cooldown():
    state = replace(STATE, previous="b", since_swap_s=1.0)
    decision = decide(state, Settings())
    assert (decision.action, decision.reason, decision.model) == (
        "roll_back",
        "worse_than_before",
        "b",
    )


def test_a_collapse_is_an_emergency_that_knows_no_cooldown():
    fallen = (replace(STATE.standings[0], belief=0.3, collapsed=True), STATE.standings[1])
    state = replace(STATE, standings=fallen, tests={}, since_swap_s=1.0)
    decision = decide(state, Settings())
    assert (decision.action, decision.reason, decision.model) == ("promote", "collapsed", "b")
    worse = (fallen[0], replace(fallen[1], belief=0.2))
    alone = decide(replace(state, standings=worse), Settings())
    assert (alone.action, alone.reason) == ("undecided", "collapsed_without_alternative")


def test_a_long_load_costs_what_little_traffic_does_not_earn_back():
    slow = (STATE.standings[0], replace(STATE.standings[1], swap_cost=SwapCost(load_s=60_000)))
    state = replace(STATE, standings=slow)
    assert decide(state, Settings(residency_s=3600)).reason == "does_not_pay"
    assert decide(state, Settings(residency_s=86_400)).action == "promote"


def test_each_recent_swap_raises_the_bar():
    barely = proof([1.0, 0.0] * 10)
    state = replace(STATE, tests={"b": barely})
    assert decide(state, Settings()).action == "promote"
    assert decide(replace(state, recent_swaps=2000), Settings()).action == "undecided"


def test_the_bar_rises_with_the_number_of_candidates():
    barely = proof([1.0, 0.0] * 10)
    crowd = STATE.standings + tuple(Standing(f"m{n}", 0.4) for n in range(500))
    state = replace(STATE, standings=crowd, tests={"b": barely})
    assert decide(state, Settings()).action == "undecided"


def test_only_a_model_that_no_task_needs_is_unloaded():
    third = Standing("c", 0.4, 50)
    one = TaskState("one", "a", (*STATE.standings, third), {"b": WORSE, "c": WORSE})
    two = TaskState("two", "b", (*STATE.standings, third), {"a": WORSE, "c": EQUAL})
    both = [(one, Settings()), (two, Settings())]
    assert [c.model for c in unloadable(both)] == ["c"]
    assert not unloadable(both, kept=frozenset("c"))
    doubt = replace(two, tests={"c": OPEN})
    assert not unloadable([(one, Settings()), (doubt, Settings())])


@pytest.mark.parametrize(
    "careful", [Settings(min_samples=1000), Settings(alpha=1e-9), Settings(mode="advise")]
)
def test_each_task_judges_by_its_own_settings_whether_a_model_may_go(careful):
    third = Standing("c", 0.4, 50)
    one = TaskState("one", "a", (STATE.standings[0], third), {"c": WORSE})
    two = replace(one, task="two")
    assert [c.model for c in unloadable([(one, Settings()), (two, Settings())])] == ["c"]
    for asked in permutations([(one, Settings()), (two, careful)]):
        assert not unloadable(asked)


def test_after_a_promotion_there_is_no_second_swap_without_new_evidence():
    candidate_tests = CandidateTests("t", "a", Settings(cooldown_s=0))
    for n in range(40):
        candidate_tests.pair("b", 1.0, n % 2)
    arms = [Arm("a", 40, belief=0.5), Arm("b", 40, belief=0.9)]
    assert candidate_tests.look(0.0, arms).action == "promote"
    candidate_tests.swapped("b", 0.0)
    for second in range(1, 2000):
        assert candidate_tests.look(float(second), arms).action == "undecided"


def test_two_equal_models_swap_at_most_once_in_100_000_requests():
    # Seed 8, half of the requests shadowed until the test is settled.
    rng = random.Random(8)
    candidate_tests = CandidateTests("t", "a", Settings(cooldown_s=50))
    swaps = 0
    for number in range(100_000):
        rivals = candidate_tests.undecided(["a", "b"])
        if rivals and rng.random() < 0.5:
            candidate_tests.pair(rivals[0], float(rng.random() < 0.8), float(rng.random() < 0.8))
        if number % 50 == 0:
            arms = [Arm("a", 700, belief=0.81), Arm("b", 700, belief=0.82)]
            decision = candidate_tests.look(float(number), arms)
            if decision.action in ("promote", "roll_back"):
                candidate_tests.swapped(str(decision.model), float(number))
                swaps += 1
        elif not rivals:
            break  # settled: nothing more can change
    assert swaps <= 1


def test_one_client_alone_causes_no_promotion():
    candidate_tests = CandidateTests("t", "a", Settings(cooldown_s=0))
    arms = [Arm("a", 500, belief=0.5), Arm("b", 500, belief=0.9)]

    def votes(source, number):
        for n in range(number):
            candidate_tests.served("b", float(n % 4 > 0), source)
            candidate_tests.served("a", float(n % 4 == 0), source)

    votes("key-1", 500)
    assert candidate_tests.look(0.0, arms).action == "undecided"
    votes("key-2", 60)
    assert candidate_tests.look(0.0, arms).action == "promote"


def test_a_change_of_the_active_model_reopens_all_tests():
    candidate_tests = CandidateTests("t", "a")
    candidate_tests.pair("b", 1.0, 0.0)
    candidate_tests.pair("c", 1.0, 0.0)
    candidate_tests.reopen("b")
    assert set(candidate_tests.tests) == {"c"}
    candidate_tests.reopen("a")
    assert not candidate_tests.tests


def test_a_collapse_of_the_active_model_moves_its_traffic():
    rng = random.Random(9)
    candidate_tests = CandidateTests("t", "a")
    candidate_tests.swapped("a", 0.0)
    for _ in range(300):
        candidate_tests.watch("a", float(rng.random() < 0.95))
    arms = [Arm("a", 300, belief=0.95), Arm("b", 300, belief=0.8)]
    assert candidate_tests.look(300.0, arms).reason != "collapsed"
    change, seen = "none", 0
    while change == "none" and seen < 300:
        change = candidate_tests.watch("a", float(rng.random() < 0.5))
        seen += 1
    decision = candidate_tests.look(300.0, arms)
    assert (decision.action, decision.reason, decision.model) == ("promote", "collapsed", "b")


def test_trials_survive_their_document():
    candidate_tests = CandidateTests("t", "a", Settings(cooldown_s=0))
    for n in range(40):
        candidate_tests.pair("b", 1.0, n % 2)
    candidate_tests.swapped("b", 5.0)
    candidate_tests.pair("a", 0.0, 1.0)
    again = CandidateTests.from_doc(candidate_tests.to_doc(), candidate_tests.settings)
    assert again.to_doc() == candidate_tests.to_doc()
    arms = [Arm("a"), Arm("b")]
    assert again.look(6.0, arms) == candidate_tests.look(6.0, arms)
