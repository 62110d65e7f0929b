"""An A/B test finds the better model, spares the worse one, drops a harmful one, and owns up."""

import json
import statistics

import numpy as np
import pytest
from pydantic import ValidationError

from hotswap_ray.core.proof.betting import Matching, PairTest
from hotswap_ray.core.rollout.ab_pairs import pair_of
from hotswap_ray.core.rollout.ab_report import ABTestSpec, history, report, weights_of
from hotswap_ray.core.rollout.ab_weights import chances_of_best
from hotswap_ray.core.spec.rollout import GuardrailSpec
from tests.worlds.seen import seen

NO_LIMITS = GuardrailSpec(error_rate=None, latency_p95=None, ttft_p95=None, quality=None)


def judged(quality, **more):
    """Requests with these qualities that came one a second, and nothing else is known of them."""
    number = len(quality)
    return seen(
        number, quality=quality, **{"at_s": np.arange(number), "latency_ms": np.nan, **more}
    )


def coins(rng, chance, number):
    return (rng.random(number) < chance) * 1.0


class Traffic:
    """Requests that come one by one and are divided by shares; the control is called a."""

    def __init__(self, seed, most=3000, **chances):
        self.rng = np.random.default_rng(seed)
        self.tapes = {model: coins(self.rng, chance, most) for model, chance in chances.items()}
        self.counts = dict.fromkeys(chances, 0)
        self.arrivals = {model: np.zeros(most) for model in chances}
        self.requests = 0

    def send(self, weights):
        shares = {"a": 1 - sum(weights.values()), **weights}
        place = np.searchsorted(np.cumsum(list(shares.values())), self.rng.random())
        model = list(shares)[min(place, len(shares) - 1)]
        self.arrivals[model][self.counts[model]] = self.requests
        self.counts[model] += 1
        self.requests += 1

    def seen(self):
        return {
            model: judged(
                tape[: self.counts[model]], at_s=self.arrivals[model][: self.counts[model]]
            )
            for model, tape in self.tapes.items()
        }


def dropped_by(found):
    """Who is out by the report and why, as the controller reads it."""
    return {one.model: one.dropped for one in found.comparisons if one.dropped}


def run(spec, traffic, most=3000):
    """A test as the controller drives it, looked at after every fourth request."""
    weights, dropped = spec.shares, {}
    while True:
        now = traffic.seen()
        if traffic.requests % 4 == 0:
            found = report(spec, "a", now, dropped)
            dropped = dropped_by(found)
            if found.state == "ended" or traffic.requests >= most:
                return found
        if traffic.requests % 10 == 0:
            weights = weights_of(spec, "a", now, dropped)
        traffic.send(weights)


def requests_of(found, model):
    return next(arm.requests for arm in found.arms if arm.model == model)


@pytest.mark.parametrize("adaptive", [False, True])
def test_of_equal_models_looked_at_after_every_request_few_are_called_better(adaptive):
    spec = ABTestSpec(variants=("b",), adaptive=adaptive)
    wrong = 0
    for seed in range(200):
        traffic, weights = Traffic(seed, 250, a=0.7, b=0.7), spec.shares
        for _ in range(250):
            traffic.send(weights)
            now = traffic.seen()
            if pair_of(spec, "a", now, "b").verdict == "better":
                wrong += 1
                break
            if traffic.requests % 10 == 0:
                weights = weights_of(spec, "a", now)
    assert wrong <= 10


def test_a_better_model_is_found_and_adaptive_shares_spare_the_worse_one():
    worse, reasons = {}, set()
    for adaptive in (False, True):
        spec = ABTestSpec(variants=("b",), adaptive=adaptive, guardrails=NO_LIMITS)
        found = [run(spec, Traffic(seed, a=0.60, b=0.85)) for seed in range(25)]
        worse[adaptive] = statistics.mean(requests_of(one, "a") for one in found)
        reasons |= {(one.reason, one.winner) for one in found}
    assert reasons == {("better", "b")}
    assert worse[True] <= 0.85 * worse[False]


def test_a_harmful_variant_is_out_after_some_forty_requests():
    spec = ABTestSpec(variants=("b",))
    found = [run(spec, Traffic(seed, a=0.85, b=0.60)) for seed in range(50)]
    assert {one.winner for one in found} == {None}
    assert {one.reason for one in found} <= {"worse", "harm", "not_better"}
    assert statistics.median(requests_of(one, "b") for one in found) <= 45


def test_a_variant_that_fails_a_guardrail_is_dropped_and_cannot_win():
    rng = np.random.default_rng(5)
    now = {
        "a": judged(coins(rng, 0.5, 200)),
        "b": judged(coins(rng, 0.95, 200), success=coins(rng, 0.7, 200)),
        "c": judged(coins(rng, 0.5, 200)),
    }
    spec = ABTestSpec(variants=("b", "c"))
    found = report(spec, "a", now)
    assert list(dropped_by(found)) == ["b"]
    assert found.reason == "running"
    assert found.comparisons[0].failed[0].startswith("error_rate: failures 0.")
    assert "b was dropped (guardrail failed: error_rate" in found.sentence
    assert weights_of(spec, "a", now, dropped_by(found)) == {"b": 0.0, "c": 1 / 3}


def test_when_every_variant_is_out_the_control_stays_for_that_reason():
    rng = np.random.default_rng(6)
    spec = ABTestSpec(variants=("b",))
    broken = {"a": judged(np.full(99, 0.5)), "b": judged(np.full(99, 0.5), success=np.zeros(99))}
    assert report(spec, "a", broken).reason == "harm"
    poor = {"a": judged(coins(rng, 0.9, 99)), "b": judged(coins(rng, 0.2, 99))}
    assert report(spec, "a", poor).reason == "worse"
    gone = report(spec, "a", {"a": judged([]), "b": judged([])}, {"b": "its replica died"})
    assert (gone.state, gone.reason) == ("ended", "harm")
    assert "its replica died" in gone.sentence


def test_equal_models_end_as_equivalent_and_the_cheaper_one_wins():
    quality = np.resize([1.0, 0.8, 0.9, 0.7], 4000)

    def of(price):
        now = {"a": judged(quality, cost_usd=0.02), "b": judged(quality, cost_usd=price)}
        found = report(ABTestSpec(variants=("b",)), "a", now)
        assert found.reason == "equivalent"
        return found.winner

    assert (of(0.01), of(0.0195), of(0.04), of(np.nan)) == ("b", None, "a", None)


def test_a_variant_proven_not_better_ends_the_test_without_waiting_to_know_how_much_worse():
    quality = np.resize([1.0, 0.8, 0.9, 0.7], 4000)
    now = {"a": judged(quality), "b": judged(quality - 0.03)}
    found = report(ABTestSpec(variants=("b",), margin=0.029, guardrails=NO_LIMITS), "a", now)
    assert (found.reason, found.winner) == ("not_better", None)
    assert "b (-0.030): not better than a" in found.sentence


def test_a_cheaper_variant_is_not_sent_off_before_it_is_known_whether_it_is_as_good():
    quality = np.resize([1.0, 0.8, 0.9, 0.7], 4000)
    spec = ABTestSpec(variants=("b",), margin=0.029, guardrails=NO_LIMITS)
    now = {"a": judged(quality, cost_usd=0.02), "b": judged(quality - 0.03, cost_usd=0.01)}
    assert report(spec, "a", now).reason == "running"
    now["b"] = judged(quality - 0.03, cost_usd=0.02)
    assert report(spec, "a", now).reason == "not_better"


def test_of_several_better_ones_the_best_wins():
    rng = np.random.default_rng(7)
    now = {m: judged(coins(rng, c, 300)) for m, c in (("a", 0.4), ("b", 0.65), ("c", 0.9))}
    found = report(ABTestSpec(variants=("b", "c", "d")), "a", {**now, "d": judged([])})
    assert (found.reason, found.winner) == ("running", None)  # d must have its requests
    assert "each model needs 20 requests, d has 0" in found.sentence
    found = report(ABTestSpec(variants=("b", "c", "d")), "a", {**now, "d": now["a"]})
    assert (found.reason, found.winner) == ("better", "c")
    assert [one.bar for one in found.comparisons] == pytest.approx([60, 60, 60])


def test_the_limits_of_a_test_end_it_undecided():
    now = {"a": judged(np.full(50, 0.5)), "b": judged(np.resize([0.0, 1.0], 50))}
    spec = ABTestSpec(variants=("b",), max_requests=100, max_s=60)
    assert report(spec, "a", now).reason == "max_requests"
    spec = ABTestSpec(variants=("b",), max_s=60)
    assert report(spec, "a", now, spent_s=60).reason == "max_s"
    assert report(spec, "a", now, spent_s=59).state == "running"


def test_answers_that_nobody_judged_are_named_and_nothing_else_is_taken_instead():
    none = np.full(200, np.nan)
    now = {"a": judged(none), "b": judged(none, success=np.zeros(200))}
    found = report(ABTestSpec(variants=("b",), guardrails=NO_LIMITS), "a", now)
    assert found.missing == ("a", "b")
    assert found.state == "running"
    assert found.comparisons[0].effect is None
    assert "quality is missing: no answer of a and b was judged" in found.sentence
    spec = ABTestSpec(variants=("b",), metric="success", guardrails=NO_LIMITS)
    assert report(spec, "a", now).reason == "worse"


def test_an_empty_test_has_a_report():
    found = report(ABTestSpec(variants=("b",)), "a", {})
    doc = found.to_doc()
    assert json.loads(json.dumps(doc, allow_nan=False)) == doc
    assert (doc["state"], doc["requests"], doc["extra_cost_usd"]) == ("running", 0, None)
    assert history(ABTestSpec(variants=("b",)), "a", {}) == {"b": []}


def test_a_report_is_plain_json_and_the_same_each_time():
    now = Traffic(1, a=0.5, b=0.9)
    for _ in range(200):
        now.send({"b": 0.5})
    once, again = (report(ABTestSpec(variants=("b",)), "a", now.seen()) for _ in range(2))
    assert once == again
    assert json.loads(json.dumps(once.to_doc(), allow_nan=False)) == once.to_doc()


def test_the_cost_of_the_test_is_what_the_variants_cost_more_and_what_was_given_up():
    now = {
        "a": judged(np.full(10, 0.5), cost_usd=0.01),
        "b": judged(np.full(10, 0.7), cost_usd=0.03),
        "c": judged(np.full(10, 0.4), cost_usd=0.005),
    }
    found = report(ABTestSpec(variants=("b", "c")), "a", now)
    assert found.extra_cost_usd == pytest.approx(10 * 0.02 - 10 * 0.005)
    assert found.quality_given_up == pytest.approx(10 * 0.2 + 10 * 0.3)
    assert [arm.share for arm in found.arms] == pytest.approx([1 / 3] * 3)


@pytest.mark.parametrize(("weights", "ratio"), [((), 1), ((0.1,), 9), ((0.3,), 2), ((0.02,), 10)])
def test_values_meet_as_matching_joins_them_by_the_stated_shares(weights, ratio):
    rng = np.random.default_rng(8)
    old, new = rng.random(95), rng.random(31)
    spec = ABTestSpec(variants=("b",), weights=weights)
    matching, joined = Matching(ratio, waiting=1000), []
    for value in old:
        joined += matching.active(value)
    for value in new:
        joined += matching.candidate(value)
    pair = pair_of(spec, "a", {"a": judged(old), "b": judged(new)}, "b")
    assert pair.rising == pytest.approx(joined)
    test = PairTest(spec.margin, spec.equivalence)
    test.extend(joined)
    assert pair.verdict == test.verdict(1)


def test_adaptive_blocks_do_not_depend_on_what_was_seen():
    rng = np.random.default_rng(9)
    old, new = rng.random(90), rng.random(90)
    spec = ABTestSpec(variants=("b",), adaptive=True)
    for few, many in ((20, 90), (90, 20), (50, 50)):
        pair = pair_of(spec, "a", {"a": judged(old[:few]), "b": judged(new[:many])}, "b")
        whole = pair_of(spec, "a", {"a": judged(old), "b": judged(new)}, "b")
        assert pair.rising == pytest.approx(whole.rising[: len(pair.rising)])
        assert pair.falling == pytest.approx(whole.falling[: len(pair.falling)])


def test_adaptive_shares_follow_the_odds_above_a_floor_and_wait_for_enough_values():
    rng = np.random.default_rng(10)
    spec = ABTestSpec(variants=("b", "c"), adaptive=True, min_weight=0.1)
    few = {m: judged(coins(rng, 0.5, 10)) for m in "abc"}
    assert weights_of(spec, "a", few) == spec.shares
    now = {m: judged(coins(rng, p, 200)) for m, p in (("a", 0.4), ("b", 0.9), ("c", 0.4))}
    assert weights_of(spec, "a", now) == {"b": 0.8, "c": 0.1}
    assert weights_of(spec, "a", now, {"b": "harm"})["b"] == 0
    assert weights_of(spec, "a", now) == weights_of(spec, "a", now)


def test_the_odds_of_the_best_are_those_of_drawing():
    rng = np.random.default_rng(11)
    values = [coins(rng, p, n) for p, n in ((0.6, 40), (0.7, 30), (0.65, 100))]
    drawn = np.array([rng.beta(1 + v.sum(), 1 + len(v) - v.sum(), 200_000) for v in values])
    odds = np.bincount(drawn.argmax(0)) / 200_000
    assert chances_of_best(values) == pytest.approx(odds, abs=0.01)
    assert chances_of_best([np.ones(5000), np.zeros(5000)]) == pytest.approx([1, 0])


def test_the_history_ends_at_the_report_and_narrows():
    traffic = Traffic(2, a=0.5, b=0.6)
    for _ in range(1000):
        traffic.send({"b": 0.5})
    spec, now = ABTestSpec(variants=("b",)), traffic.seen()
    points = history(spec, "a", now)["b"]
    last = report(spec, "a", now).comparisons[0]
    assert points[-1] == {
        "requests": 1000, "effect": last.effect, "low": last.low, "high": last.high,
    }  # fmt: skip
    assert len(points) <= 40
    assert points[-1]["high"] - points[-1]["low"] < points[0]["high"] - points[0]["low"]


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"variants": ()}, "at least 1"),
        ({"variants": ("b", "b")}, "variants must differ"),
        ({"variants": ("b",), "weights": (0.2, 0.3)}, "2 shares for 1 variants"),
        ({"variants": ("b", "c"), "weights": (0.5, 0.5)}, "must stay below 1"),
        ({"variants": ("b",), "weights": (1.5,)}, r"each weight must be in \(0, 1\)"),
        ({"variants": ("b",), "margin": 0.03}, "must be above margin"),
        ({"variants": ("b",), "adaptive": True, "min_weight": 0.5}, "leaves nothing to adapt"),
        ({"variants": ("b",), "metrik": "quality"}, "Extra inputs"),
    ],
)
def test_a_plan_that_cannot_be_is_refused_with_what_to_do(given, says):
    with pytest.raises(ValidationError, match=says):
        ABTestSpec(**given)


def test_a_value_outside_its_range_is_refused():
    now = {"a": judged([0.5] * 30), "b": judged([7.0] * 30)}
    with pytest.raises(ValueError, match=r"\[-1, 1\]"):
        report(ABTestSpec(variants=("b",), guardrails=NO_LIMITS), "a", now)
