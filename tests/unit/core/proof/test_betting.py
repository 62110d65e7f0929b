"""The tests' error rates, by simulation with stated seeds and probabilities."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest

from hotswap_ray.core.proof.betting import FairShare, Matching, PairTest
from hotswap_ray.core.proof.drift import Drift


def first_promotion(active: float, candidate: float, samples: int, seed: int) -> int | None:
    """Sample at which unpaired coins are told apart when looked at after every one."""
    rng = np.random.default_rng(seed)
    d = (rng.random(samples) < candidate) * 1.0 - (rng.random(samples) < active) * 1.0
    test = PairTest()
    bar = math.log(1 / 0.05)
    for number, value in enumerate(d, start=1):
        test.extend((value,))
        if number >= 10 and test.log_e() >= bar:
            return number
    return None


def test_two_equal_models_are_rarely_told_apart_however_often_one_looks():
    # At most 5% by Ville's inequality; 100 runs of 1,000 looks. Were it 5%, more than 12
    # would have probability 0.0015.
    wrong = sum(first_promotion(0.8, 0.8, 1000, seed) is not None for seed in range(100))
    assert wrong <= 12


@pytest.mark.parametrize(
    ("active", "candidate", "fixed"), [(0.5, 0.75, 43), (0.6, 0.8, 62), (0.5, 0.9, 14)]
)
def test_a_large_difference_is_found_within_one_and_a_half_of_a_fixed_size_test(
    active, candidate, fixed
):
    # `fixed` is the size per arm of a one-sided test at 5% with 80% power; 41 runs.
    found = [first_promotion(active, candidate, 1000, seed) or 1000 for seed in range(41)]
    assert float(np.median(found)) <= max(1.5 * fixed, fixed + 10)


def test_the_order_of_pairs_changes_nothing():
    rng = random.Random(5)
    d = [rng.uniform(-1, 1) for _ in range(200)]
    whole, turned = PairTest(), PairTest()
    whole.extend(d)
    turned.extend(d[120:])
    turned.extend(d[:120])
    assert turned.count == whole.count == 200
    assert turned.mean == pytest.approx(whole.mean)
    for side in ("better", "worse", "not_better", "not_worse"):
        assert turned.log_e(side) == pytest.approx(whole.log_e(side))


def test_a_test_survives_its_document():
    test = PairTest(margin=0.02, width=0.05)
    test.extend([0.5, -0.25, 1.0])
    again = PairTest.from_doc(test.to_doc())
    again.extend([0.1])
    test.extend([0.1])
    assert again.to_doc() == test.to_doc()


@pytest.mark.parametrize("bad", [math.nan, math.inf, 1.2, -1.2])
def test_an_impossible_difference_is_refused_and_changes_nothing(bad):
    test = PairTest()
    test.extend([0.5])
    before = test.to_doc()
    with pytest.raises(ValueError, match="difference"):
        test.extend([0.1, bad])
    assert test.to_doc() == before


def test_identical_answers_end_as_equivalent():
    test = PairTest()
    test.extend([0.0] * 400)
    assert test.verdict(1) == "equivalent"


def test_a_worse_candidate_is_proven_worse_and_a_correction_asks_for_more():
    test = PairTest()
    test.extend([-1.0, 0.0] * 10)
    assert test.verdict(1) == "worse"
    few = PairTest()
    few.extend([1.0, 0.0] * 5)
    bar_of_one = few.log_e() >= math.log(1 / 0.05)
    bar_of_many = few.log_e() >= math.log(1000 / 0.05)
    assert bar_of_one or not bar_of_many
    assert few.verdict(1000) == "undecided"


def test_more_samples_are_asked_for_only_when_they_could_help():
    test = PairTest()
    test.extend([1.0, 0.0, 1.0, 0.0])
    assert (test.more(1) or 0) > 0
    lost = PairTest()
    lost.extend([-1.0] * 5)
    assert lost.more(1) is None


def test_matching_is_fair_when_the_traffic_follows_the_results():
    # Two equal coins; the candidate gets traffic only after the active model failed, which
    # would favour it if results were matched by time. 200 runs of up to 300 differences:
    # at most 5% false promotions, so more than 20 have probability 0.002.
    wrong = 0
    for seed in range(200):
        rng = random.Random(seed)
        test, matching, last = PairTest(0.0), Matching(ratio=2), 1.0
        for _ in range(600):
            value = float(rng.random() < 0.7)
            if last < 1 and rng.random() < 0.7:
                test.extend(matching.candidate(value))
                last = 1.0
            else:
                test.extend(matching.active(value))
                last = value
            if test.count >= 10 and test.log_e() >= math.log(20):
                wrong += 1
                break
    assert wrong <= 20


def test_one_source_is_never_most_of_what_was_admitted_lately():
    gate = FairShare()
    for n in range(300):
        gate.admits(f"user-{n % 30}")
    assert sum(gate.admits("troll") for _ in range(1000)) <= 6


def test_a_test_without_one_of_its_parts_is_the_test_of_the_rest():
    rng = random.Random(4)
    part, rest, whole = PairTest(), PairTest(), PairTest()
    for n in range(200):
        difference = rng.uniform(-1, 1)
        (part if n % 3 else rest).extend([difference])
        whole.extend([difference])
    left = whole.without(part)
    assert left.count == rest.count
    assert left.mean == pytest.approx(rest.mean)
    for side in ("better", "worse", "not_better", "not_worse"):
        assert left.log_e(side) == pytest.approx(rest.log_e(side))


def test_a_collapse_is_noticed_within_60_requests_and_calm_raises_no_alarm():
    # Success 0.95, then 0.60; 15 runs of 600 calm requests (9,000 in all).
    delays, false = [], 0
    for seed in range(15):
        rng = random.Random(seed)
        drift = Drift()
        false += sum(drift.update(float(rng.random() < 0.95)) != "none" for _ in range(600))
        delays.append(
            next(n for n in range(1, 1000) if drift.update(float(rng.random() < 0.6)) != "none")
        )
    assert float(np.median(delays)) <= 60
    assert false <= 0.2 * 9


def test_a_noisy_stream_raises_no_alarm():
    rng = random.Random(6)
    drift = Drift()
    alarms = [drift.update(float(rng.random() < 0.5)) for _ in range(5000)]
    assert alarms.count("none") >= 4999
