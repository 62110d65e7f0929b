"""Guardrails fail who is worse, and soon; they let pass who is not; and they say when in doubt."""

import statistics
from dataclasses import replace

import numpy as np
import pytest

from hotswap_ray.core.guardrails import GuardrailSpec, Seen, check, verdict

WEIGHT = 0.05


def traffic(rng, number, errors=0.01, slower=1.0, quality=0.8):
    success = (rng.random(number) >= errors) * 1.0
    judged = np.where(success > 0, (rng.random(number) < quality) * 1.0, np.nan)
    latency_ms = rng.lognormal(3, 0.4, number) * slower
    none = np.full(number, np.nan)
    return Seen(success, latency_ms, none, judged, np.arange(number) * 1.0, none, none)


def head(seen, number):
    return Seen(*(getattr(seen, name)[:number] for name in Seen.__dataclass_fields__))


def out_after(seed, weight=WEIGHT, most=400, **candidate):
    """Requests of the candidate until a guardrail fails, looked at after every fifth; or None."""
    rng = np.random.default_rng(seed)
    ratio = (1 - weight) / weight
    old = traffic(rng, int(most * ratio))
    new = traffic(rng, most, **candidate)
    for number in range(20, most + 1, 5):
        found = check(GuardrailSpec(), head(old, int(number * ratio)), head(new, number))
        if verdict(found) == "failed":
            return number
    return None


@pytest.mark.parametrize(
    ("metric", "bad"),
    [("errors", {"errors": 0.2}), ("latency", {"slower": 2.0}), ("quality", {"quality": 0.6})],
)
def test_a_bad_candidate_is_out_after_some_fifty_requests(metric, bad):
    took = [out_after(seed, **bad) or 10_000 for seed in range(50)]
    assert statistics.median(took) <= 80  # at 5% of the traffic: of 1,600 requests in all


def test_a_good_candidate_is_hardly_ever_out():
    wrong = [seed for seed in range(200) if out_after(seed, weight=0.5, most=200) is not None]
    assert len(wrong) <= 10


def test_a_good_candidate_passes_and_a_better_one_too():
    rng = np.random.default_rng(1)
    for candidate in ({}, {"errors": 0.0, "slower": 0.5, "quality": 0.95}):
        found = check(GuardrailSpec(), traffic(rng, 2000), traffic(rng, 400, **candidate))
        assert {one.metric: one.result for one in found} == {
            "error_rate": "passed",
            "latency_p95": "passed",
            "quality": "passed",
        }


def test_few_requests_are_inconclusive_and_none_at_all_an_error():
    rng = np.random.default_rng(2)
    few = check(GuardrailSpec(), traffic(rng, 100), traffic(rng, 19))
    assert {one.result for one in few} == {"inconclusive"}
    none = check(GuardrailSpec(), traffic(rng, 0), traffic(rng, 0))
    assert {one.result for one in none} == {"error"}
    assert verdict(none) == "error"


def test_a_metric_that_nobody_reports_is_no_guardrail_and_neither_is_one_without_limit():
    rng = np.random.default_rng(3)
    seen = [traffic(rng, 100) for _ in range(2)]
    unjudged = [replace(s, quality=s.ttft_ms) for s in seen]
    assert [one.metric for one in check(GuardrailSpec(), *unjudged)] == [
        "error_rate",
        "latency_p95",
    ]
    off = GuardrailSpec(error_rate=None, latency_p95=None, quality=None)
    assert check(off, *seen) == []
    assert verdict([]) == "error"  # nothing looked is not the same as nothing found


def test_a_metric_that_only_one_model_reports_cannot_pass():
    rng = np.random.default_rng(4)
    old, new = traffic(rng, 500), traffic(rng, 100)
    new = replace(new, quality=new.ttft_ms)
    (quality,) = (one for one in check(GuardrailSpec(), old, new) if one.metric == "quality")
    assert quality.result == "inconclusive"
