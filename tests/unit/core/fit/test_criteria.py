"""Which loaded model serves one request: limits, preferences, and what is not known."""

import pytest

from hotswap_ray.core.errors import Incompatible, InvalidRequest
from hotswap_ray.core.fit.criteria import LEAST_SCORES, meets, parse_criteria, pick
from hotswap_ray.core.outcome import Criteria
from hotswap_ray.core.spec.task import ModelSpec, Preferences


def model(name, **options):
    return ModelSpec(id=name, engine="simulated", **options)


SMALL, LARGE = model("small"), model("large", capabilities=("chat", "completions", "tools"))
GPU = model("gpu", resources={"num_gpus": 1})


@pytest.mark.parametrize(
    ("criteria", "measured", "lack"),
    [
        ({"required_capabilities": ("tools",)}, {}, "lacks capability tools"),
        ({"available_hardware": ("gpu",)}, {}, "runs on cpu, not on gpu"),
        ({"max_latency_ms": 10}, {"latency_p50_ms": 11.0}, "latency 11 ms exceeds 10 ms"),
        ({"max_memory_bytes": 2**20}, {"memory_bytes": 2**21}, "memory 2 MiB exceeds 1 MiB"),
        (
            {"quality_threshold": 0.8},
            {"quality": 0.5, "quality_count": LEAST_SCORES},
            "quality 0.50 is below 0.80",
        ),
    ],
)
def test_each_limit_that_is_not_met_is_told(criteria, measured, lack):
    assert meets(SMALL, parse_criteria(criteria), measured) == [lack]


@pytest.mark.parametrize(
    ("criteria", "measured"),
    [
        ({"max_latency_ms": 10}, {}),
        ({"max_latency_ms": 10}, {"latency_p50_ms": None}),
        ({"max_memory_bytes": 2**20}, {}),
        ({"quality_threshold": 0.8}, {}),
        ({"quality_threshold": 0.8}, {"quality": 0.5, "quality_count": LEAST_SCORES - 1}),
        ({"available_hardware": ("cpu", "gpu")}, {}),
    ],
)
def test_what_was_not_measured_well_enough_excludes_nobody(criteria, measured):
    assert meets(SMALL, parse_criteria(criteria), measured) == []


def test_the_active_model_stays_when_it_meets_the_criteria():
    choice = pick(Criteria("t"), "small", {"small": SMALL, "large": LARGE}, {})
    assert choice == ("small", "")


def test_another_model_is_chosen_with_the_reason_why():
    loaded = {"small": SMALL, "large": LARGE}
    wish = Criteria("t", required_capabilities=("tools",))
    assert pick(wish, "small", loaded, {}) == ("large", "small lacks capability tools")


def test_when_the_active_model_is_not_loaded_another_one_serves():
    assert pick(Criteria("t"), "away", {"small": SMALL}, {}) == ("small", "away is not loaded")


@pytest.mark.parametrize(
    ("preferences", "best"),
    [(None, "good"), ({"quality": 1}, "good"), ({"quality": 0.1, "latency": 1}, "quick")],
)
def test_of_several_that_will_do_the_preferences_choose(preferences, best):
    loaded = {name: model(name) for name in ("active", "good", "quick", "unknown")}
    measured = {
        "active": {"latency_p50_ms": 900.0},
        "good": {"quality": 0.9, "quality_count": 50, "latency_p50_ms": 80.0},
        "quick": {"quality": 0.6, "quality_count": 50, "latency_p50_ms": 20.0},
    }
    wish = Criteria(
        "t",
        max_latency_ms=100,
        preferences=Preferences(**preferences) if preferences else None,
    )
    assert pick(wish, "active", loaded, measured).model == best


def test_when_no_model_will_do_each_is_told_with_what_it_lacks():
    wish = Criteria("t", required_capabilities=("vision",))
    with pytest.raises(Incompatible, match="large lacks capability vision; small lacks"):
        pick(wish, "small", {"large": LARGE, "small": SMALL}, {})
    with pytest.raises(Incompatible, match="none is loaded"):
        pick(wish, "small", {}, {})


def test_criteria_are_read_from_plain_values():
    read = parse_criteria(
        {
            "task_type": "sums",
            "required_capabilities": ["tools"],
            "available_hardware": ["gpu"],
            "preferences": {"latency": 2},
        }
    )
    assert read == Criteria(
        "sums", ("tools",), available_hardware=("gpu",), preferences=Preferences(latency=2)
    )
    assert parse_criteria(None) == Criteria("")
    assert parse_criteria(read) is read


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({"max_latency": 3}, "did you mean 'max_latency_ms'?"),
        ({"quality_threshold": 2}, "quality_threshold: must be from 0 to 1"),
        ({"quality_threshold": float("nan")}, "quality_threshold"),
        ({"max_latency_ms": "soon"}, "max_latency_ms"),
        ({"available_hardware": ["tpu"]}, "available_hardware"),
        ({"preferences": {"speed": 1}}, "preferences"),
        ({"preferences": {"energy": 1}}, "preferences.energy: .*nothing measures energy yet"),
    ],
)
def test_criteria_that_cannot_be_read_are_refused_by_name(value, text):
    with pytest.raises(InvalidRequest, match=text.replace("?", r"\?")):
        parse_criteria(value)
