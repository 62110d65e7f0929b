"""A confidence sequence holds the mean at every look, and narrows."""

import math

import numpy as np
import pytest

from hotswap_ray.core.proof.betting import PairTest
from hotswap_ray.core.proof.interval import interval

RUNS, ALPHA = 300, 0.1


@pytest.mark.parametrize("kind", ["right and wrong", "grades", "skewed"])
def test_it_misses_the_mean_at_any_look_in_at_most_alpha_of_the_runs(kind):
    rng = np.random.default_rng(11)
    missed = 0
    for _ in range(RUNS):
        if kind == "right and wrong":
            d, mean = (rng.random(400) < 0.7) * 1.0 - (rng.random(400) < 0.6), 0.1
        elif kind == "grades":
            d, mean = rng.beta(4, 2, 400) - rng.beta(4, 2, 400), 0.0
        else:
            d, mean = np.where(rng.random(400) < 0.05, -1.0, 0.2), -0.05 + 0.95 * 0.2
        looks = [interval(d[:n], ALPHA) for n in range(5, 401, 30)]
        missed += any(not low <= mean <= high for low, high in looks)
    assert missed / RUNS <= ALPHA + 2 * math.sqrt(ALPHA * (1 - ALPHA) / RUNS)


def test_it_narrows_and_holds_the_mean_of_what_was_seen():
    d = np.resize([0.5, -0.25, 0.0, 1.0], 40_000)
    widths = []
    for n in (4, 40, 400, 4000, 40_000):
        low, high = interval(d[:n])
        assert low <= d[:n].mean() <= high
        widths.append(high - low)
    assert widths == sorted(widths, reverse=True)
    assert widths[-1] < 0.03


def test_more_certainty_is_a_wider_interval():
    d = np.resize([1.0, 0.0, 0.0, -1.0, 1.0], 200)
    inner, outer = interval(d, 0.2), interval(d, 0.01)
    assert outer[0] < inner[0] < inner[1] < outer[1]


def test_it_is_the_betting_test_inverted():
    d = np.resize([1.0, 0.0, 0.5], 300)
    low, _ = interval(d, 0.05)
    for margin, proven in ((low - 1e-5, True), (low + 1e-5, False)):
        test = PairTest(margin, margin + 0.01)
        test.extend(d)
        assert (test.log_e("better") >= math.log(2 / 0.05)) is proven


def test_neither_order_nor_sign_matters():
    d = np.random.default_rng(3).uniform(-1, 1, 500)
    low, high = interval(d)
    assert interval(np.sort(d)) == (low, high)
    assert interval(-d) == pytest.approx((-high, -low))


def test_many_different_numbers_are_rounded_against_the_proof_and_hardly_cost_anything():
    d = np.random.default_rng(4).beta(2, 2, 20_000) - 0.3
    low, high = interval(d)
    inner = interval(np.round(d * 1000) / 1000)  # few enough to be exact
    assert low <= d.mean() <= high
    assert (low, high) == pytest.approx(inner, abs=1e-3)


@pytest.mark.parametrize("ends", [1.0, -1.0])
def test_differences_at_an_end_of_the_range_leave_the_other_end_open(ends):
    found = interval([ends] * 50)
    assert ends in found
    assert abs(found[0] - found[1]) < 0.25


def test_without_differences_nothing_is_known():
    assert interval([]) == (-1.0, 1.0)


@pytest.mark.parametrize("bad", [[1.5], [float("nan")], [0.0, -2.0]])
def test_a_difference_out_of_range_is_refused(bad):
    with pytest.raises(ValueError, match=r"must be in \[-1, 1\]"):
        interval(bad)


@pytest.mark.parametrize("alpha", [0, 1, -0.1])
def test_an_impossible_level_is_refused(alpha):
    with pytest.raises(ValueError, match="alpha is"):
        interval([0.0], alpha)
