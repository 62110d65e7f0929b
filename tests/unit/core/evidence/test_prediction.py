"""Predictions: missing is missing, intervals keep their promise, and the promise is measured."""

import random

import pytest

from hotswap_ray.core.evidence.calibration import calibration, compare, observe
from hotswap_ray.core.evidence.cell import Evidence
from hotswap_ray.core.evidence.prediction import (
    ANSWERS,
    Interval,
    Known,
    Prediction,
    lognormal,
    predict,
)
from hotswap_ray.core.outcome import Outcome
from hotswap_ray.core.spec.price import Price


def cells_of(*cells):
    return {(cell.task, cell.model): cell for cell in cells}


def cell(task, model, latency_ms=(), scores=(), success=True, tokens=(100, 20)):
    """Evidence of so many answers, and of scores given later."""
    made = Evidence(task, model)
    made.extend(
        [
            Outcome(f"r{n}", task, model, 1, "active", 1.0, success, value, None, *tokens)
            for n, value in enumerate(latency_ms)
        ]
    )
    made.score(list(scores))
    return made


def coins(rng, worth, count):
    return [float(rng.random() < worth) for _ in range(count)]


def share(hits):
    return sum(hits) / len(hits)


# --- what is known and what is not ------------------------------------------------------


def test_of_a_model_and_a_task_that_nobody_saw_nothing_is_predicted():
    found = predict("t", "a", {})
    assert found == Prediction("t", "a", reward="success", answer_sd=found.answer_sd)
    elsewhere = cells_of(cell("u", "b", [10.0] * 20, [1.0] * 20))
    assert predict("t", "a", elsewhere).quality is None


def test_a_report_that_names_no_model_predicts_nothing():
    assert predict("t", "a", cells_of(cell("t", "", [10.0] * 20, [1.0] * 20))).quality is None


def test_success_is_predicted_where_nobody_judges():
    answers = cells_of(cell("t", "a", [10.0] * 50))
    found = predict("t", "a", answers)
    assert (found.reward, found.quality.high) == ("success", 1.0)
    assert predict("t", "a", cells_of(cell("t", "a", (), [1.0] * 9))).reward == "quality"


def test_a_model_new_to_a_task_is_expected_to_be_what_it_is_elsewhere():
    rng = random.Random(1)
    worth = {"good": 0.9, "poor": 0.4}
    seen = [
        cell(f"t{n}", model, scores=coins(rng, worth[model], 80))
        for n in range(6)
        for model in worth
    ]
    found = {
        model: predict("new", model, cells_of(*seen, cell("new", "third", scores=[0.5] * 20)))
        for model in worth
    }
    assert found["good"].quality.mid > found["poor"].quality.mid + 0.2
    own = predict("t0", "good", cells_of(*seen)).quality
    assert own.high - own.low < found["good"].quality.high - found["good"].quality.low


def test_a_loaded_model_loads_in_no_time_and_others_as_they_did_before():
    assert predict("t", "a", {}, Known(load_s=[4.0], is_loaded=True)).load_s == Interval(0, 0, 0)
    found = predict("t", "a", {}, Known(load_s=[4.0, 5.0, 4.5])).load_s
    assert found.mid == pytest.approx(4.5)
    assert 2 < found.low < 4 < 5 < found.high < 9
    assert predict("t", "a", {}).load_s is None


def test_measured_memory_counts_more_than_declared_memory():
    declared = predict("t", "a", {}, Known(declared_memory_bytes=1000)).memory_bytes
    measured = predict("t", "a", {}, Known([500, 510], 1000)).memory_bytes
    assert declared.mid == pytest.approx(1000)
    assert measured.low < 500 < 510 < measured.high < 1000
    assert measured.high / measured.low < declared.high / declared.low
    assert predict("t", "a", {}).memory_bytes is None


def test_cost_is_price_times_tokens_and_unknown_without_a_price():
    priced = Known(price=Price(1, 5))
    seen = cells_of(cell("t", "b", [9.0] * 20))
    of_others = predict("t", "a", seen, priced).cost_usd
    own = predict("t", "a", seen | cells_of(cell("t", "a", [9.0] * 20, tokens=(100, 40))), priced)
    assert of_others.mid == pytest.approx(200e-6, rel=0.01)
    assert own.cost_usd.mid == pytest.approx(300e-6, rel=0.01)
    assert of_others.high / of_others.low > own.cost_usd.high / own.cost_usd.low
    assert predict("t", "a", seen).cost_usd is None
    assert predict("t", "a", {}, priced).cost_usd is None


# --- latency ----------------------------------------------------------------------------


def test_latency_at_a_new_task_follows_from_relative_speed():
    seen = [
        cell(f"t{n}", model, [level * speed] * 20)
        for n, level in enumerate((10.0, 100.0, 1000.0))
        for model, speed in (("a", 2.0), ("b", 1.0))
    ]
    found = predict("new", "a", cells_of(*seen, cell("new", "b", [300.0] * 20))).latency_ms
    assert found.mid == pytest.approx(600, rel=0.05)
    one = predict("new", "a", cells_of(*seen[:2], cell("new", "b", [300.0] * 20))).latency_ms
    assert one.high / one.low > found.high / found.low


def test_a_few_own_answers_are_not_yet_a_latency():
    assert predict("t", "a", cells_of(cell("t", "a", [10.0] * 9))).latency_ms is None
    assert predict("t", "a", cells_of(cell("t", "a", [10.0] * 10))).latency_ms is not None


def test_models_that_were_never_compared_say_nothing_about_each_other():
    seen = cells_of(cell("t", "b", [10.0] * 20), cell("u", "a", [10.0] * 20))
    assert predict("t", "a", seen).latency_ms is None


# --- do the intervals keep their promise? -----------------------------------------------


@pytest.mark.parametrize("own", [5, 30, 200])
def test_nine_of_ten_quality_intervals_hold_the_mean_of_the_next_answers(own):
    rng = random.Random(own)
    hits = []
    for _ in range(300):
        worths = {model: min(max(rng.gauss(0.7, 0.15), 0.05), 0.95) for model in "abc"}
        cells = [cell("t", model, scores=coins(rng, worths[model], own)) for model in "abc"]
        said = predict("t", "a", cells_of(*cells)).quality
        actual = share(coins(rng, worths["a"], ANSWERS))
        hits.append(said.low <= actual <= said.high)
    assert 0.84 <= share(hits) <= 0.98


def test_nine_of_ten_own_latency_intervals_hold_the_next_median():
    rng = random.Random(2)
    hits = []
    for _ in range(400):
        times = [rng.lognormvariate(4, 0.5) for _ in range(40 + ANSWERS)]
        said = predict("t", "a", cells_of(cell("t", "a", times[:40]))).latency_ms
        hits.append(said.low <= sorted(times[40:])[ANSWERS // 2] <= said.high)
    assert 0.85 <= share(hits) <= 0.96


@pytest.mark.parametrize("tasks", [1, 3, 8])
def test_nine_of_ten_relative_latency_intervals_hold_the_median_at_a_new_task(tasks):
    rng = random.Random(tasks)
    hits = []
    for _ in range(300):
        speed = {model: rng.gauss(0, 0.5) for model in "ab"}
        median = {
            (f"t{n}", model): 100 * 2.718 ** (speed[model] + own)
            for n in range(tasks + 1)
            for model in "ab"
            for own in [rng.gauss(0, 0.25)]
        }
        cells = [cell(*key, [value] * 10) for key, value in median.items() if key != ("t0", "a")]
        said = predict("t0", "a", cells_of(*cells)).latency_ms
        hits.append(said.low <= median["t0", "a"] <= said.high)
    assert 0.84 <= share(hits) <= 0.99


@pytest.mark.parametrize("loads", [1, 2, 5, 20])
def test_nine_of_ten_load_times_fall_into_their_interval(loads):
    rng = random.Random(loads)
    hits = []
    for _ in range(600):
        times = [rng.lognormvariate(1, 0.3) for _ in range(loads + 1)]
        said = lognormal(times[:-1], 0.3)
        hits.append(said.low <= times[-1] <= said.high)
    assert 0.86 <= share(hits) <= 0.985


# --- predicted against actual -----------------------------------------------------------


def answers(count, quality=0.5, success=True, **more):
    row = {"success": success, "quality": quality, "latency_ms": 20.0, "tokens_in": 10,
           "tokens_out": 4, "memory_bytes": 0}  # fmt: skip
    return [{**row, **more}] * count


def test_what_a_model_did_is_told_from_ten_answers_on():
    assert observe(answers(9)) is None
    assert observe(answers(8) + answers(2, None, success=False)) == {
        "count": 10, "reward": "quality",  # too few scores and too few successes
    }  # fmt: skip
    assert observe(answers(40) + answers(10, float("nan"), success=False)) == {
        "count": 50, "reward": "quality", "quality": 0.4, "judged": 40, "latency_ms": 20.0,
        "tokens_in": 10.0, "tokens_out": 4.0,
    }  # fmt: skip
    unjudged = observe(answers(10, None, memory_bytes=7))
    assert (unjudged["reward"], unjudged["quality"], unjudged["judged"]) == ("success", 1.0, 10)
    assert unjudged["memory_bytes"] == 7


def test_a_mean_over_fewer_answers_may_lie_farther_off():
    said = Prediction("t", "a", quality=Interval(0.6, 0.7, 0.8), answer_sd=0.4)
    few = compare(said, {"quality": 0.55, "judged": 10})["quality"]
    many = compare(said, {"quality": 0.55, "judged": 50})["quality"]
    assert (few["inside"], many["inside"], many["low"]) == (True, False, 0.6)
    assert many["relative_error"] == pytest.approx(-0.2143)


def test_only_what_is_known_on_both_sides_is_compared():
    said = Prediction("t", "a", quality=Interval(0.6, 0.7, 0.8), load_s=Interval(0, 0, 0))
    assert compare(said, {"latency_ms": 5.0}) == {}
    assert compare(said, {"quality": 1.0, "judged": 50, "reward": "success"}) == {}
    assert compare(said, {"load_s": 0.0})["load_s"]["relative_error"] is None


def test_calibration_is_the_distance_of_the_share_inside_from_nine_tenths():
    said = Prediction("t", "a", latency_ms=Interval(80, 100, 130))
    rows = [compare(said, {"latency_ms": value}) for value in (90.0, 110.0, 120.0, 200.0)]
    assert calibration(rows) == {
        "latency_ms": {
            "n": 4, "inside": 0.75, "nominal": 0.9, "calibration_error": 0.15,
            "relative_error": 0.35,
        }
    }  # fmt: skip
    assert calibration([]) == {}


def test_a_prediction_survives_the_store():
    said = predict(
        "t", "a", cells_of(cell("t", "a", [10.0, 30.0] * 10, [0.5, 1.0] * 10)), Known(load_s=[2.0])
    )
    assert Prediction.from_doc({**said.to_doc(), "newer": 1}).to_doc() == said.to_doc()
    assert len(str(said.to_doc())) < 600
