"""Evidence forgets at a stated rate, stays small and exact; knowledge transfers whole."""

import math
import random
import time
from dataclasses import replace

import numpy as np
import orjson
import pytest

from hotswap_ray.core.errors import NotFound
from hotswap_ray.core.evidence.cell import Evidence, Moments, group, problem
from hotswap_ray.core.evidence.knowledge import TaskKnowledge, derive_complexity, transfer
from hotswap_ray.core.evidence.learnings import Learnings
from hotswap_ray.core.evidence.prior import CAP, Belief
from hotswap_ray.core.evidence.recent import RecentLatencies
from hotswap_ray.core.outcome import Criteria
from hotswap_ray.core.spec.task import Preferences, Requirements, TaskSpec


def traffic(outcome, number, seed=1, **changes):
    seeded = random.Random(seed)
    return [
        outcome(
            n,
            latency_ms=seeded.lognormvariate(5, 1),
            ttft_ms=seeded.lognormvariate(3, 0.5),
            tokens_in=seeded.randrange(5000),
            tokens_out=seeded.randrange(2000),
            success=seeded.random() < 0.9,
            quality=seeded.random() if seeded.random() < 0.3 else None,
            **changes,
        )
        for n in range(number)
    ]


def test_moments_are_those_of_numpy_and_merge_exactly():
    values = np.random.default_rng(4).random(500).tolist()
    whole, left, right = Moments(1.0), Moments(1.0), Moments(1.0)
    whole.extend(values)
    left.extend(values[:100])
    right.extend(values[100:])
    left.merge(right)
    for moments in (whole, left):
        assert moments.mean == pytest.approx(np.mean(values))
        assert moments.variance == pytest.approx(np.var(values))
    empty = Moments(1.0)
    empty.merge(Moments(1.0))
    assert (empty.weight, empty.variance) == (0, 0)


def test_a_missing_quality_is_not_an_observation(outcome):
    cell = Evidence("capitals", "small")
    cell.extend([outcome(n) for n in range(50)])
    assert cell.row()["quality"] is None
    cell.score([0.4])
    cell.extend([outcome(n) for n in range(50)])
    assert (cell.row()["quality"], cell.row()["quality_count"]) == (0.4, 1)


def test_a_failure_says_nothing_about_latency_or_tokens(outcome):
    cell = Evidence("capitals", "small")
    cell.extend(
        [outcome(1, success=False, latency_ms=1.0, ttft_ms=1.0), outcome(2, latency_ms=500.0)]
    )
    assert cell.latency_ms.quantile(0.0) == pytest.approx(500, rel=0.02)
    assert cell.success_rate == pytest.approx(0.5, abs=0.001)


def test_evidence_follows_a_model_that_collapses(outcome):
    cell = Evidence("capitals", "small", half_life=50)
    cell.extend([outcome(n) for n in range(5000)])
    assert cell.success_rate == 1.0
    cell.extend([outcome(n, success=False) for n in range(150)])
    assert cell.success_rate == pytest.approx(1 / 8, abs=0.01)
    assert cell.count == 5150


def test_evidence_is_found_again_to_the_last_bit(outcome):
    cell = Evidence("capitals", "small")
    cell.extend(traffic(outcome, 3000))
    again = Evidence.from_doc(orjson.loads(orjson.dumps(cell.to_doc())))
    assert again.to_doc() == cell.to_doc()
    more = traffic(outcome, 100, seed=2)
    cell.extend(more)
    again.extend(more)
    assert again.to_doc() == cell.to_doc()


def test_merging_evidence_adds_up_and_never_crosses_models(outcome):
    whole, left, right = (Evidence("capitals", "small", 1e9) for _ in range(3))
    batch = traffic(outcome, 1000)
    whole.extend(batch)
    left.extend(batch[:400])
    right.extend(batch[400:])
    left.merge(right)
    assert left.count == whole.count
    assert left.quality.mean == pytest.approx(whole.quality.mean)
    assert left.row()["latency_p99_ms"] == pytest.approx(whole.row()["latency_p99_ms"])
    with pytest.raises(ValueError, match="evidence of large"):
        left.merge(Evidence("capitals", "large"))


def size_of(cell):
    """Bytes of a cell with everything that belongs to it alone."""
    import sys

    total, seen, todo = 0, set(), [cell]
    while todo:
        thing = todo.pop()
        if id(thing) in seen or isinstance(thing, str | type):
            continue
        seen.add(id(thing))
        total += sys.getsizeof(thing)
        if isinstance(thing, np.ndarray) and thing.base is not None:
            total += thing.nbytes
        for name in getattr(type(thing), "__slots__", ()):
            todo.append(getattr(thing, name))
    return total


def test_a_cell_takes_at_most_10_kilobytes_whatever_the_traffic(outcome):
    cell = Evidence("capitals", "small")
    seeded = random.Random(5)
    for _ in range(20):
        cell.extend(
            [
                outcome(
                    n,
                    latency_ms=10 ** seeded.uniform(-4, 9),
                    ttft_ms=10 ** seeded.uniform(-4, 9),
                    tokens_in=int(10 ** seeded.uniform(0, 9)),
                    tokens_out=int(10 ** seeded.uniform(0, 9)),
                    quality=seeded.random(),
                )
                for n in range(2000)
            ]
        )
    assert size_of(cell) <= 10_000
    assert size_of(Evidence.from_doc(cell.to_doc())) <= 10_000


@pytest.mark.parametrize(
    "changes",
    [
        {"latency_ms": -1.0},
        {"latency_ms": math.nan},
        {"latency_ms": math.inf},
        {"ttft_ms": -0.1},
        {"tokens_out": 2**40},
        {"memory_bytes": -5},
        {"quality": 1.1},
        {"quality": math.nan},
        {"at_s": math.inf},
        {"task": "null\0byte"},
        {"model": "m" * 300},
        {"request_id": None},
    ],
)
def test_impossible_outcomes_are_told_with_their_value(outcome, changes):
    assert problem(outcome(1)) is None
    assert problem(outcome(1, **changes))


def test_outcomes_are_grouped_in_their_order(outcome):
    batch = [outcome(n, model="ab"[n % 2]) for n in range(6)]
    cells = group(batch)
    assert [o.request_id for o in cells["capitals", "a"]] == ["r0", "r2", "r4"]


def test_a_request_keeps_what_it_states_and_the_task_fills_in_the_rest():
    spec = TaskSpec(
        id="sums",
        model="small",
        requirements=Requirements(capabilities=("json",), max_latency_ms=900, accelerator="gpu"),
        preferences=Preferences(latency=2),
        quality_target=0.7,
    )
    known = TaskKnowledge("sums").configured(spec)
    filled = known.enhance(Criteria("sums"))
    assert filled.required_capabilities == ("json",)
    assert (filled.max_latency_ms, filled.quality_threshold) == (900, 0.7)
    assert (filled.available_hardware, filled.preferences) == (("gpu",), spec.preferences)
    stated = Criteria(
        "sums", ("tools",), quality_threshold=0.0, max_latency_ms=50, available_hardware=("cpu",)
    )
    kept = known.enhance(stated)
    assert kept.required_capabilities == ("tools", "json")
    assert (kept.quality_threshold, kept.max_latency_ms) == (0.0, 50)
    assert kept.available_hardware == ("cpu",)


def test_what_a_person_stated_outlasts_configuration_and_traffic(outcome):
    known = TaskKnowledge("capitals").learn(1.0, Preferences(cost=5), "high")
    known = known.configured(TaskSpec(id="capitals", model="small", quality_target=0.6))
    cell = Evidence("capitals", "small")
    cell.extend([outcome(n) for n in range(100)])
    known = known.observe([cell], 2.0)
    assert (known.preferences.cost, known.complexity, known.quality_target) == (5, "high", 0.6)
    assert TaskKnowledge.from_doc(orjson.loads(orjson.dumps(known.to_doc()))) == known


def test_complexity_is_derived_from_lengths_and_difficulty(outcome):
    easy, hard = Evidence("t", "a"), Evidence("t", "a")
    easy.extend([outcome(n, tokens_in=50, tokens_out=5) for n in range(50)])
    hard.extend([outcome(n, tokens_in=4000, success=n % 2 == 0) for n in range(50)])
    assert TaskKnowledge("t").observe([easy], 1.0).complexity == "low"
    assert TaskKnowledge("t").observe([hard], 1.0).complexity == "high"
    assert TaskKnowledge("t").observe([], 1.0).complexity == "medium"
    assert derive_complexity(300, 0.15) == "medium"


def test_references_pool_every_model_of_the_task(outcome):
    small, large = Evidence("t", "small"), Evidence("t", "large")
    small.extend([outcome(n, latency_ms=10.0) for n in range(100)])
    large.extend([outcome(n, latency_ms=1000.0, quality=0.5) for n in range(100)])
    known = TaskKnowledge("t").observe([small, large], 3.0)
    assert known.latency_ms["p10"] == pytest.approx(10, rel=0.02)
    assert known.latency_ms["p99"] == pytest.approx(1000, rel=0.02)
    assert (known.seen, known.quality, known.updated_s) == (200, pytest.approx(0.5), 3.0)
    assert known.observe([small], 1.0).updated_s == 3.0


def test_joined_knowledge_keeps_what_was_stated_then_what_is_newer():
    stated = TaskKnowledge("t", updated_s=1.0).learn(1.0, complexity="high")
    newer = TaskKnowledge("t", quality_target=0.5, updated_s=9.0)
    for joined in (stated.merge(newer), newer.merge(stated)):
        assert (joined.complexity, joined.quality_target) == ("high", 0.5)
    with pytest.raises(ValueError, match="none of"):
        stated.merge(TaskKnowledge("other"))


def test_a_transfer_hands_over_the_task_and_copies_no_observation(outcome):
    old, new = Evidence("t", "small"), Evidence("t", "large")
    old.extend(traffic(outcome, 1000))
    new.extend([outcome(1)])
    before = [old.to_doc(), new.to_doc()]
    known = TaskKnowledge("t").observe([old, new], 1.0)
    prior = Belief(mean=0.7, sd=0.1, prior=0.6, mass=5.0)
    record = transfer(known, [old, new], "small", "large", 2.0, prior)
    assert [old.to_doc(), new.to_doc()] == before
    assert "requirements" in record.transferred
    assert "latency_ms" in record.transferred
    assert (record.prior_mass, record.prior_mean, record.prior_sd) == (5.0, 0.6, 0.1)
    assert record.own_count == 1
    fresh = transfer(TaskKnowledge("t"), [], "small", "large", 2.0, prior)
    assert "latency_ms" not in fresh.transferred


def test_a_transfer_takes_under_a_millisecond_with_twenty_models(outcome):
    learned = Learnings(500)
    for number in range(20):
        learned.fold(traffic(outcome, 500, seed=number, model=f"m{number}"))
    took = []
    for _ in range(50):
        started = time.perf_counter()
        known = learned.refresh("capitals", 1.0)
        transfer(known, learned.of_task("capitals"), "m0", "m1", 1.0, Belief(0.5, 0.1, 0.5, 1.0))
        took.append(time.perf_counter() - started)
    # The best of many: a busy machine may interrupt any of them.
    assert min(took) < 1e-3


def test_an_unknown_task_is_refused_with_the_closest_name():
    learned = Learnings(500)
    learned.configure([TaskSpec(id="capitals", model="small")])
    with pytest.raises(NotFound, match="did you mean 'capitals'"):
        learned.known("capitols")


def test_imported_knowledge_does_not_replace_this_configuration():
    learned = Learnings(500)
    learned.configure([TaskSpec(id="t", model="small", quality_target=0.6)])
    learned.adopt({"t": TaskKnowledge("t", quality_target=0.1, complexity="high", seen=5)})
    assert learned.known("t") == replace(
        learned.known("t"), quality_target=0.6, complexity="high", seen=5
    )


def test_recent_latencies_compare_two_stretches_of_time(outcome):
    recent = RecentLatencies(size=1000)
    assert recent.p99(0, 1e12) == (None, 0)
    recent.extend([outcome(n, at_s=100.0 + n / 10, latency_ms=10.0) for n in range(100)])
    recent.extend(
        [outcome(n, at_s=110.0 + n / 10, latency_ms=50.0, task="sums") for n in range(100)]
    )
    recent.extend([outcome(1, at_s=115.0, success=False, latency_ms=9999.0)])
    assert recent.p99(100, 110) == (10.0, 100)
    assert recent.p99(110, 120) == (50.0, 100)
    assert recent.p99(0, 1e12, task="sums") == (50.0, 100)
    assert recent.p99(0, 1e12, task="none") == (None, 0)
    recent.extend([outcome(n, at_s=200.0, latency_ms=1.0) for n in range(2500)])
    assert recent.p99(0, 150)[1] == 0
    assert recent.p99(150, 250)[1] == 1000


def test_the_prior_of_a_new_model_is_weak_and_comes_from_what_it_did_elsewhere(outcome):
    learned = Learnings(500)
    for task, good in (("a", 0.9), ("b", 0.8)):
        for model, offset in (("small", 0.0), ("large", -0.6)):
            scores = [outcome(n, task=task, model=model, quality=good + offset) for n in range(80)]
            learned.fold(scores)
    learned.fold([outcome(n, task="c", model="small", quality=0.85) for n in range(80)])
    prior = learned.prior("c", "large")
    assert 0 < prior.mass <= CAP
    assert prior.prior < 0.6  # it was bad elsewhere, so it is expected to be bad here
    assert learned.prior("c", "unheard-of").prior > prior.prior
    assert ("c", "large") not in learned.cells  # nothing was copied
