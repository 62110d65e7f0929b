"""May this candidate replace that model for this task?"""

import time

import pytest

from hotswap_ray.core.fit.compatibility import check_compatibility
from hotswap_ray.core.spec.task import ModelSpec, TaskSpec

MIB = 2**20


def model(name="new", **changes):
    return ModelSpec(id=name, engine="simulated", **changes)


def task(**requirements):
    return TaskSpec(id="t", model="old", requirements=requirements)


def gaps(report):
    return [(gap.what, gap.severity) for gap in report.gaps]


def test_a_candidate_that_gives_all_that_is_asked_has_no_gap():
    report = check_compatibility(task(), model(), model("old"))
    assert report.gaps == ()
    assert report.accepts(strict=True)


@pytest.mark.parametrize(
    ("requirements", "candidate", "what"),
    [
        ({"capabilities": ("tools",)}, {}, "capabilities"),
        ({"context_tokens": 4096}, {}, "context"),
        ({"accelerator": "gpu"}, {}, "hardware"),
        ({"accelerator": "cpu"}, {"resources": {"num_gpus": 1}}, "hardware"),
        ({"max_memory_bytes": 1}, {"resources": {"memory_bytes": 2}}, "memory"),
    ],
)
def test_less_than_the_task_requires_refuses_in_every_mode(requirements, candidate, what):
    report = check_compatibility(task(**requirements), model(**candidate), None)
    assert gaps(report) == [(what, "error")]
    assert not report.accepts(strict=True)
    assert not report.accepts(strict=False)


@pytest.mark.parametrize(
    ("current", "what"),
    [
        ({"capabilities": ("chat", "completions", "json")}, "capabilities"),
        ({"context_tokens": 8192}, "context"),
        ({"max_ongoing_requests": 32}, "engine"),
        ({"resources": {"replicas": 3}}, "engine"),
    ],
)
def test_less_than_the_current_model_offers_refuses_only_when_strict(current, what):
    report = check_compatibility(task(), model(), model("old", **current))
    assert gaps(report) == [(what, "warning")]
    assert not report.accepts(strict=True)
    assert report.accepts(strict=False)


def test_measured_memory_outweighs_what_was_stated():
    needs = task(max_memory_bytes=100 * MIB)
    stated = model(resources={"memory_bytes": 50 * MIB})
    report = check_compatibility(needs, stated, None, measured_memory_bytes=200 * MIB)
    assert [str(gap) for gap in report.gaps] == [
        "error: memory: needs at most 100 MiB, has 200 MiB measured"
    ]


def test_a_gap_says_what_is_needed_and_what_is_there():
    report = check_compatibility(task(capabilities=("tools", "json")), model(), None)
    assert str(report.gaps[0]) == "error: capabilities: needs json, tools, has chat, completions"


def test_a_lost_capability_that_the_task_requires_is_named_once():
    current = model("old", capabilities=("chat", "completions", "tools"))
    report = check_compatibility(task(capabilities=("tools",)), model(), current)
    assert gaps(report) == [("capabilities", "error")]


def test_the_check_takes_less_than_a_millisecond():
    needs, candidate, current = task(capabilities=("tools",)), model(), model("old")
    took = []
    for _ in range(200):
        started = time.perf_counter()
        check_compatibility(needs, candidate, current)
        took.append(time.perf_counter() - started)
    assert sorted(took)[100] < 1e-3
