"""How often decisions err and how soon they come; one JSON object last. Seeds are fixed.

python benchmarks/decisions.py [--runs 1000] [--samples 4000]
"""

from __future__ import annotations

import argparse
import json
import math
import random
import statistics
import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hotswap_ray.core.autoswap.candidate_tests import CandidateTests
from hotswap_ray.core.autoswap.decide import Settings, Standing, TaskState, decide
from hotswap_ray.core.autoswap.decider import Decider
from hotswap_ray.core.autoswap.view import ModelFacts, TaskView
from hotswap_ray.core.evidence.learnings import Learnings
from hotswap_ray.core.outcome import Outcome
from hotswap_ray.core.policies.selection import Arm
from hotswap_ray.core.proof.betting import BETS, PairTest
from hotswap_ray.core.spec.task import TaskSpec

ALPHA, MARGIN, LEAST = 0.05, 0.01, 10
GAPS = ((0.50, 0.75), (0.75, 0.85), (0.60, 0.80))
Array = NDArray[np.float64]


def log_e(differences: Array) -> Array:
    """``PairTest.log_e("better")`` after each difference, for many runs (rows) at once."""
    total = np.full(differences.shape, -np.inf)
    for bet in BETS / (1 + MARGIN):
        total = np.logaddexp(total, np.cumsum(np.log1p(bet * (differences - MARGIN)), axis=1))
    result: Array = total - math.log(len(BETS))
    return result


def first(hit: NDArray[np.bool_]) -> Array:
    """Samples until the first hit of each run, never before ``LEAST``; infinite if none."""
    hit[:, : LEAST - 1] = False
    return np.where(hit.any(1), hit.argmax(1) + 1.0, np.inf)


def coins(rng: np.random.Generator, shape: tuple[int, int], a: float, b: float,
          shared: float) -> tuple[Array, Array]:  # fmt: skip
    """Results of two models; a share of the prompts is equally hard for both."""
    hard = rng.random(shape)
    other = np.where(rng.random(shape) < shared, hard, rng.random(shape))
    return (hard < a) * 1.0, (other < b) * 1.0


def equal_models(runs: int, samples: int) -> dict[str, Any]:
    """Probability of promoting an equal model when looking after each sample."""
    found: dict[str, list[float]] = {"e_process": [], "mean_higher": [], "z_test_peeking": []}
    rng = np.random.default_rng(1)
    for start in range(0, runs, 100):
        a, b = coins(rng, (min(100, runs - start), samples), 0.8, 0.8, 0.0)
        n = np.arange(1, samples + 1)
        gap = np.cumsum(b - a, axis=1) / n
        rate = np.cumsum(a + b, axis=1) / (2 * n)
        error = np.sqrt(np.maximum(rate * (1 - rate), 1e-9) * 2 / n)
        found["e_process"] += list(first(log_e(b - a) >= math.log(1 / ALPHA)))
        found["mean_higher"] += list(first(gap > 0))
        found["z_test_peeking"] += list(first(gap / error > 1.645))
    return {name: float(np.mean(np.isfinite(values))) for name, values in found.items()}


def sample_sizes(runs: int) -> list[dict[str, Any]]:
    """Median samples per arm until a promotion, unpaired and with paired shadowing."""
    rows = []
    for a, b in GAPS:
        spread = a * (1 - a) + b * (1 - b)
        fixed = math.ceil((1.645 + 0.8416) ** 2 * spread / (b - a) ** 2)
        row: dict[str, Any] = {"active": a, "candidate": b, "fixed_size": fixed}
        for name, shared in (("unpaired", 0.0), ("paired_half_shared", 0.5)):
            rng = np.random.default_rng(2)
            x, y = coins(rng, (runs, 12 * fixed), a, b, shared)
            row[name] = float(np.median(first(log_e(y - x) >= math.log(1 / ALPHA))))
        row["ratio"] = round(row["unpaired"] / fixed, 3)
        row["saving"] = round(1 - row["paired_half_shared"] / row["unpaired"], 3)
        rows.append(row)
    return rows


def agrees_with_the_product() -> bool:
    """The simulation's statistic is that of the class that decides."""
    d = np.random.default_rng(3).uniform(-1, 1, (1, 50))
    test = PairTest(MARGIN)
    test.extend(list(d[0]))
    return math.isclose(test.log_e(), float(log_e(d)[0, -1]), rel_tol=1e-9)


def collapse(runs: int) -> dict[str, float]:
    """Success falls from 0.95 to 0.60: requests until the traffic is elsewhere; false alarms."""
    delays, false, calm = [], 0, 1000
    arms = [Arm("a", calm, belief=0.95), Arm("b", calm, belief=0.85)]
    for seed in range(runs):
        rng = random.Random(seed)
        candidate_tests = CandidateTests("t", "a")
        candidate_tests.swapped("a", 0.0)  # inside its cooldown all the time
        for _ in range(calm):
            if candidate_tests.watch("a", float(rng.random() < 0.95)) != "none":
                false += 1
                candidate_tests.reopen("a")
        for delay in range(1, 1000):
            changed = candidate_tests.watch("a", float(rng.random() < 0.60)) != "none"
            if changed and candidate_tests.look(1.0, arms).model == "b":
                delays.append(delay)
                break
    return {
        "detect_and_leave_median_requests": statistics.median(delays),
        "left": len(delays) / runs,
        "false_alarms_per_1000": 1000 * false / (runs * calm),
    }


def equal_for_long(seeds: int, requests: int = 100_000) -> dict[str, float]:
    """Swaps between two equal models, half of the requests shadowed while undecided."""
    swaps = []
    for seed in range(seeds):
        rng = random.Random(seed)
        candidate_tests, done = CandidateTests("t", "a"), 0
        arms = [Arm("a", 700, belief=0.8), Arm("b", 700, belief=0.81)]
        for start in range(0, requests, 100):
            if not (rivals := candidate_tests.undecided(["a", "b"])):
                break  # settled; only a change would open it again
            for _ in range(50):
                candidate_tests.pair(
                    rivals[0], float(rng.random() < 0.8), float(rng.random() < 0.8)
                )
            decision = candidate_tests.look(float(start), arms)
            if decision.action in ("promote", "roll_back"):
                candidate_tests.swapped(str(decision.model), float(start))
                done += 1
        swaps.append(done)
    return {"max": max(swaps), "mean": statistics.fmean(swaps)}


def decision_ms(tasks: int = 100, models: int = 20) -> float:
    """Time to decide about every task, each test with news since the last look."""
    rng = np.random.default_rng(4)
    states = []
    for task in range(tasks):
        standings = tuple(Standing(f"m{n}", 0.5, 100.0, 0.9) for n in range(models))
        tests = {f"m{n}": PairTest() for n in range(1, models)}
        for test in tests.values():
            test.extend(list(rng.choice([-1.0, 0.0, 1.0], 30)))
        states.append(TaskState(f"t{task}", "m0", standings, tests))
    took = []
    for _ in range(7):
        for state in states:
            for test in state.tests.values():
                test.extend((0.0,))
        start = time.perf_counter()
        for state in states:
            decide(state, Settings())
        took.append((time.perf_counter() - start) * 1e3)
    return statistics.median(took)


def live_look(tasks: int = 100, models: int = 20) -> dict[str, float]:
    """A whole look at live tests, beliefs included, and the price of each outcome."""
    learned = Learnings(500)
    names = [f"m{n}" for n in range(models)]
    learned.configure([TaskSpec(id=f"t{t}", model="m0") for t in range(tasks)])
    views = [TaskView(f"t{t}", "m0", tuple(names[1:])) for t in range(tasks)]
    facts = {name: ModelFacts() for name in names}
    decider = Decider(learned)
    decider.look(views, facts, 0.0)
    rng = random.Random(6)
    batch = [
        Outcome(f"{t}-{name}-{n}", f"t{t}", name, 1, "active" if name == "m0" else "explore",
                0.0, True, 10.0, quality=float(rng.random() < 0.8))
        for t in range(tasks) for name in names for n in range(10)
    ]  # fmt: skip
    learned.fold(batch)
    start = time.perf_counter()
    decider.take(batch)
    take_s = time.perf_counter() - start
    took = []
    for now_s in range(7):
        start = time.perf_counter()
        decider.look(views, facts, float(now_s))
        took.append((time.perf_counter() - start) * 1e3)
    return {"look_ms": statistics.median(took), "take_us": take_s / len(batch) * 1e6}


def main() -> None:
    """Run all and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--samples", type=int, default=4000)
    args = parser.parse_args()
    result = {
        "same_statistic_as_product": agrees_with_the_product(),
        "equal_models_promoted": equal_models(args.runs, args.samples),
        "samples_to_promote": sample_sizes(min(args.runs, 500)),
        "collapse": collapse(40),
        "equal_models_100k_swaps": equal_for_long(10),
        "decide_100x20_ms": round(decision_ms(), 2),
        "live_100x20": {name: round(value, 2) for name, value in live_look().items()},
    }
    for name, value in result.items():
        print(f"{name}: {value}")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
