"""Guardrails fail who is worse, and soon; they let pass who is not; and they say when in doubt."""

import statistics
from dataclasses import replace

import numpy as np
import pytest

from hotswap_ray.core.guardrails import GuardrailSpec, Seen, check, verdict

WEIGHT = 0.05


def traffic(rng, number, errors=0.01, slower=1.0, quality=0.8, wrong_form=None, price=None):
    success = (rng.random(number) >= errors) * 1.0
    judged = np.where(success > 0, (rng.random(number) < quality) * 1.0, np.nan)
    latency_ms = rng.lognormal(3, 0.4, number) * slower
    none = np.full(number, np.nan)
    cost = none if price is None else rng.lognormal(0, 0.5, number) * price
    form = none if wrong_form is None else (rng.random(number) >= wrong_form) * 1.0
    return Seen(success, latency_ms, none, judged, np.arange(number) * 1.0, cost, form)


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


def found_of(metric, old, new, **limits):
    checks = check(GuardrailSpec(**limits), old, new)
    return next((one for one in checks if one.metric == metric), None)


def test_a_candidate_that_answers_in_a_wrong_form_is_out_and_one_that_keeps_it_passes():
    rng = np.random.default_rng(5)
    old = traffic(rng, 1000, wrong_form=0.01)
    bad = found_of("format_validity", old, traffic(rng, 100, wrong_form=0.3))
    assert (bad.result, bad.detail.startswith("wrong forms 0.")) == ("failed", True)
    good = found_of("format_validity", old, traffic(rng, 200, wrong_form=0.01))
    assert good.result == "passed"


def test_a_form_that_few_clients_ask_for_keeps_nobody_waiting():
    rng = np.random.default_rng(6)
    old, new = traffic(rng, 500, wrong_form=0.0), traffic(rng, 100, wrong_form=0.0)
    few = np.where(np.arange(100) < 19, 1.0, np.nan)
    assert found_of("format_validity", old, replace(new, format_ok=few)) is None
    young = head(new, 15)  # a task whose every answer has a form: it is waited for
    assert found_of("format_validity", old, young).result == "inconclusive"


def test_a_dearer_candidate_is_out_only_where_a_limit_was_set():
    rng = np.random.default_rng(7)
    old = traffic(rng, 2000, price=1e-4)
    dear, fair = traffic(rng, 200, price=3e-4), traffic(rng, 200, price=1.1e-4)
    assert found_of("cost", old, dear) is None
    failed = found_of("cost", old, dear, cost=0.2)
    assert failed.result == "failed"
    assert "USD a request against" in failed.detail
    assert "+20% allowed" in failed.detail
    assert found_of("cost", old, fair, cost=0.2).result == "passed"
    assert found_of("cost", traffic(rng, 50), traffic(rng, 50), cost=0.2) is None  # no prices


def test_a_candidate_of_the_same_price_is_hardly_ever_out():
    wrong = 0
    for seed in range(200):
        rng = np.random.default_rng(1000 + seed)
        old, new = traffic(rng, 1000, price=1e-4), traffic(rng, 200, price=1e-4)
        looks = range(20, 201, 20)
        results = [found_of("cost", old, head(new, n), cost=0.0).result for n in looks]
        wrong += "failed" in results
    assert wrong <= 10
