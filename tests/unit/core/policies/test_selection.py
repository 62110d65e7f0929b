"""Selection: the prior, the policies, the contract that all of them keep."""

from __future__ import annotations

import random
from itertools import pairwise

import numpy as np
import pytest
from pydantic import ValidationError

from hotswap_ray.core.errors import ConfigError, NotFound
from hotswap_ray.core.evidence.beliefs import Beliefs, parent_of
from hotswap_ray.core.evidence.cell import Evidence
from hotswap_ray.core.evidence.prior import CAP, learn
from hotswap_ray.core.evidence.utility import Reference, reward_share, utility
from hotswap_ray.core.outcome import Outcome
from hotswap_ray.core.policies.selection import BUILT_IN, Arm, Snapshot, find_policy, make_policy
from hotswap_ray.core.policies.thompson import Thompson
from hotswap_ray.core.policies.threshold import Threshold
from hotswap_ray.core.spec.task import Preferences
from hotswap_ray.testing.policies import check_policy


def cell(task: str, model: str, scores: list[float]) -> Evidence:
    made = Evidence(task, model)
    made.score(scores)
    return made


@pytest.mark.parametrize("name", sorted(BUILT_IN))
def test_every_built_in_policy_keeps_the_contract(name):
    check_policy(find_policy(name))


def test_the_contract_refuses_global_randomness():
    class Loose:
        def select(self, snapshot, rng):
            return random.choice(snapshot.arms).model

        def update(self, arm, reward):
            pass

    with pytest.raises(AssertionError, match="same seed"):
        check_policy(Loose)


def test_an_unknown_policy_names_the_closest_one():
    with pytest.raises(ConfigError, match="did you mean thompson"):
        make_policy("tompson")


def test_an_unknown_or_impossible_option_of_a_policy_is_refused():
    with pytest.raises(ConfigError, match="policy ucb"):
        make_policy("ucb", {"z": 1})
    with pytest.raises(ConfigError, match="width"):
        make_policy("thompson", {"width": 0})


def test_a_task_whose_limits_no_model_meets_is_a_clear_refusal():
    with pytest.raises(NotFound, match="no model meets the limits of task t"):
        Snapshot("t", ())


def test_thompson_keeps_a_model_for_a_block_and_leaves_a_model_that_is_gone():
    arms = tuple(Arm(name, 50, 0.5, belief=0.5, sd=0.1) for name in "ab")
    policy, rng = Thompson(), random.Random(1)
    chosen = [policy.select(Snapshot("t", arms), rng) for _ in range(600)]
    changes = sum(x != y for x, y in pairwise(chosen))
    assert changes < 600 / policy.shortest
    rest = tuple(arm for arm in arms if arm.model != chosen[-1])
    assert policy.select(Snapshot("t", rest), rng) == rest[0].model


def test_thompson_shares_equal_models_equally_and_a_bad_one_gets_little():
    equal = tuple(Arm(name, 5, 0.5, belief=0.5, sd=0.2) for name in "abc")
    policy, rng = Thompson(), random.Random(2)
    chosen = [policy.select(Snapshot("t", equal), rng) for _ in range(6000)]
    for name in "abc":  # seed 2; about 750 blocks, so 0.25 to 0.42 is five standard deviations
        assert 0.25 < chosen.count(name) / 6000 < 0.42
    apart = (Arm("a", 100, 0.9, belief=0.9, sd=0.03), Arm("b", 100, 0.5, belief=0.5, sd=0.05))
    chosen = [policy.select(Snapshot("t", apart), rng) for _ in range(2000)]
    assert chosen.count("b") < 20


def test_threshold_leaves_a_failing_model_only_after_its_cooldown():
    policy, rng = Threshold(explore=0.0), random.Random(3)
    bad = Arm("a", 100, 0.5, success_rate=0.5)
    snapshot = Snapshot("t", (bad, Arm("b", 100, 0.9, success_rate=0.9)), "a")
    chosen = [policy.select(snapshot, rng) for _ in range(52)]
    assert chosen == ["a"] * 50 + ["b"] * 2


def test_a_model_that_is_better_elsewhere_is_expected_to_be_better_here():
    seen = {("t1", "a"): [0.0, 1.0] * 30, ("t1", "b"): [1.0] * 60,
            ("t2", "a"): [0.0, 0.0, 1.0] * 20, ("t2", "b"): [1.0, 1.0, 0.0] * 20}  # fmt: skip
    cells = {key: cell(*key, scores) for key, scores in seen.items()}
    beliefs = Beliefs(cells, ["t1", "t2", "new"], ["a", "b"])
    a, b = (beliefs.arm("new", model, None) for model in "ab")
    assert b.belief > a.belief + 0.1
    assert a.count == b.count == 0
    assert a.mean is None


def test_the_weight_of_the_prior_is_learned_and_capped():
    rng = np.random.default_rng(4)
    n = np.full((20, 6), 200.0)
    alike = np.tile(np.linspace(0.3, 0.8, 6), (20, 1))
    mixed = rng.uniform(0.1, 0.9, (20, 6))
    trusting, doubting = (learn(n, q, q * (1 - q)) for q in (alike, mixed))
    assert doubting.mass.max() < 6 < trusting.mass.max() <= CAP


def test_a_task_borrows_more_from_its_parent_than_from_a_stranger():
    n, q = np.full((7, 2), 100.0), np.full((7, 2), 0.5)
    q[:3] = (0.3, 0.7)  # family x likes the second model
    q[3:6] = (0.7, 0.3)  # family y the first
    n[6] = 0
    prior = learn(n, q, q * (1 - q), ["x"] * 3 + ["y"] * 3 + ["x"])
    assert prior.mean[6, 1] > prior.mean[6, 0] + 0.05
    assert parent_of("mmlu/law") == "mmlu"


def test_own_evidence_outweighs_the_prior():
    cells = {("t", m): cell("t", m, [1.0] * 100) for m in "ab"}
    cells["u", "a"] = cell("u", "a", [0.0] * 200)
    arm = Beliefs(cells, ["t", "u"], ["a", "b"]).arm("u", "a", cells["u", "a"])
    assert arm.belief < 0.1


def test_a_model_without_scores_at_a_judged_task_is_unknown_not_perfect():
    cells = {("t", "a"): cell("t", "a", [0.6] * 50), ("t", "b"): Evidence("t", "b")}
    cells["t", "b"].update(Outcome("r", "t", "b", 1, "active", 0.0, True, 10.0))
    arm = Beliefs(cells, ["t"], ["a", "b"]).arm("t", "b", cells["t", "b"])
    assert arm.mean is None
    assert arm.count == 0
    assert arm.success_rate == 1.0


def test_preferences_weigh_latency_against_quality():
    usual = Reference(latency_ms=100.0)
    fast = Preferences(quality=1, latency=1)
    slow_good = utility(fast, usual, 0.8, latency_ms=400.0)
    quick_fair = utility(fast, usual, 0.7, latency_ms=50.0)
    assert quick_fair > slow_good
    assert utility(Preferences(), usual, 0.8, latency_ms=400.0) == 0.8


def test_only_what_is_measured_takes_part_in_the_utility():
    stated = Preferences(quality=1, latency=1, cost=1, memory=1)
    usual = Reference(latency_ms=1.0, cost_usd=1.0, memory_bytes=1.0)
    good, bad = (
        utility(stated, usual, quality, latency_ms=1.0, cost_usd=1.0, memory_bytes=1.0)
        for quality in (1.0, 0.0)
    )
    assert good - bad == reward_share(stated) == 0.25
    for weight in (0.001, 1, 1000):
        with pytest.raises(ValidationError, match="nothing measures energy yet; leave it 0"):
            Preferences(energy=weight)


def test_missing_quality_is_missing_and_a_failure_is_worth_nothing():
    assert utility(Preferences(), Reference(), None) is None
    assert utility(Preferences(), Reference(), None, success=False) == 0.0
