"""Guardrails fail who is worse, and soon; they let pass who is not; and they say when in doubt."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from hotswap_ray.core.rollout.canary import next_move
from hotswap_ray.core.rollout.guardrails import GuardrailResult, Seen, check, overall
from hotswap_ray.core.spec.rollout import CanarySpec, CanaryStep, GuardrailSpec

ERRORS = Path(__file__).parents[4] / "benchmarks" / "rollout_errors.py"


def traffic(
    rng, number, errors=0.01, slower=1.0, quality=0.8, wrong_form=None, price=None, refusals=0.0
):
    success = (rng.random(number) >= errors) * 1.0
    refused = (rng.random(number) < refusals) * 1.0 if refusals else np.zeros(number)
    success *= 1 - refused
    judged = np.where(success > 0, (rng.random(number) < quality) * 1.0, np.nan)
    latency_ms = rng.lognormal(3, 0.4, number) * slower
    none = np.full(number, np.nan)
    cost = none if price is None else rng.lognormal(0, 0.5, number) * price
    form = none if wrong_form is None else (rng.random(number) >= wrong_form) * 1.0
    return Seen(success, latency_ms, none, judged, np.arange(number) * 1.0, cost, form, refused)


def head(seen, number):
    return Seen(*(getattr(seen, name)[:number] for name in Seen.__dataclass_fields__))


def test_a_canary_is_rid_of_bad_candidates_and_keeps_good_ones():
    """The numbers that a rollout has to reach, of whole canaries with fixed seeds."""
    ran = subprocess.run([sys.executable, ERRORS], capture_output=True, text=True, check=True)
    found = json.loads(ran.stdout)
    for name, bad in found["bad"].items():
        assert (bad["out"], bad["let_through"]) == (1, 0), name
        assert bad["share"] <= 0.05, name
        # A tenth is half the difference of the others, and takes longer to prove.
        assert bad["requests"] <= (100 if name == "refuses_a_tenth" else 80), name
    assert found["good_out_wrongly"] <= 0.05
    assert found["good_passed"] >= 0.95
    assert found["equal_is_equivalent"] == 1


@pytest.mark.parametrize(
    ("result", "requests", "spent_s", "alarm", "plan", "move"),
    [
        ("passed", 20, 5, "", {}, "on"),
        ("passed", 19, 5, "", {}, "wait"),
        ("passed", 20, 4, "", {}, "wait"),
        ("passed", 20, 5, "both fail", {}, "doubt"),
        ("failed", 1, 0, "", {}, "out"),
        ("failed", 1, 0, "both fail", {}, "out"),  # proven worse all the same
        ("failed", 20, 5, "", {"dry_run": True}, "on"),
        ("error", 20, 5, "", {"dry_run": True}, "wait"),
        ("inconclusive", 90, 60, "", {}, "wait"),
        ("inconclusive", 90, 61, "", {}, "doubt"),
        ("error", 0, 61, "", {}, "doubt"),
        ("passed", 19, 61, "", {}, "doubt"),
    ],
)
def test_what_a_look_leads_to(result, requests, spent_s, alarm, plan, move):
    step = CanaryStep(weight=0.5, min_requests=20, min_s=5)
    plan = CanarySpec(max_step_s=60, **plan)
    said, why = next_move(
        plan, step, [GuardrailResult("x", result, "it")], requests, spent_s, alarm
    )
    assert said == move
    assert bool(why) == (move in ("out", "doubt"))


def test_beyond_the_limit_without_proof_is_inconclusive():
    none = np.full(40, np.nan)
    old, new = (np.arange(40) % 10 >= few for few in (1, 2))  # 10% and 20% wrong
    models = [Seen(np.ones(40), none, none, q * 1.0, none, none, none) for q in (old, new)]
    assert found_of("quality", *models).result == "inconclusive"
    assert found_of("quality", *models, quality=0.11).result == "passed"


def test_a_good_candidate_passes_and_a_better_one_too():
    rng = np.random.default_rng(1)
    for candidate in ({}, {"errors": 0.0, "slower": 0.5, "quality": 0.95}):
        found = check(GuardrailSpec(), traffic(rng, 9000), traffic(rng, 3000, **candidate))
        assert {one.metric: one.result for one in found} == {
            "error_rate": "passed",
            "refusal_rate": "passed",
            "latency_p95": "passed",
            "quality": "passed",
        }


def test_few_requests_are_inconclusive_and_none_at_all_an_error():
    rng = np.random.default_rng(2)
    few = check(GuardrailSpec(), traffic(rng, 100), traffic(rng, 19))
    assert {one.result for one in few} == {"inconclusive"}
    none = check(GuardrailSpec(), traffic(rng, 0), traffic(rng, 0))
    assert {one.result for one in none} == {"error"}
    assert overall(none) == "error"


def test_a_metric_that_nobody_reports_is_no_guardrail_and_neither_is_one_without_limit():
    rng = np.random.default_rng(3)
    seen = [traffic(rng, 100) for _ in range(2)]
    unjudged = [replace(s, quality=s.ttft_ms) for s in seen]
    assert [one.metric for one in check(GuardrailSpec(), *unjudged)] == [
        "error_rate",
        "refusal_rate",
        "latency_p95",
    ]
    off = GuardrailSpec(error_rate=None, refusal_rate=None, latency_p95=None, quality=None)
    assert check(off, *seen) == []
    assert overall([]) == "error"  # nothing looked is not the same as nothing found


def test_a_required_metric_that_nobody_reports_is_an_error():
    rng = np.random.default_rng(3)
    seen = [replace(s, quality=s.ttft_ms) for s in (traffic(rng, 200), traffic(rng, 200))]
    names = ("ttft_p95", "quality", "cost", "format_validity")
    found = check(GuardrailSpec(cost=0.1, required=names), *seen)
    assert {one.metric for one in found if one.result == "error"} == set(names)
    assert overall(found) == "error"
    assert next_move(CanarySpec(), CanaryStep(weight=0.5), found, 200, 60)[0] == "wait"
    with pytest.raises(ValidationError, match="cost is required and has no limit"):
        GuardrailSpec(required=("quality", "cost"))


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


def test_a_wrong_form_says_what_was_wrong_with_the_last():
    rng = np.random.default_rng(5)
    old = traffic(rng, 1000, wrong_form=0.01)
    new = replace(traffic(rng, 100, wrong_form=0.3), wrong_form="not JSON: text before it")
    for seen in (new, new.where(lambda at_s: at_s >= 0)):
        bad = found_of("format_validity", old, seen)
        assert bad.detail.endswith("allowed; the last: not JSON: text before it")


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
