"""How soon a canary is rid of a bad candidate, and how often of a good one, simulated.

The product's guardrails and its rule for the next step look once a second at 20 requests a
second, which fall to the candidate with the probability of the step, as a hash of their
conversations does it. The active model fails 1% of the time, answers log-normally in time and
is right in 80%. Seeds are fixed. ``rollouts.py`` prints these numbers with its own; alone:

    python benchmarks/rollout_errors.py
"""

from __future__ import annotations

import json
import statistics
from typing import Any

import numpy as np

from hotswap_ray.core.proof.betting import PairTest
from hotswap_ray.core.rollout.canary import next_move
from hotswap_ray.core.rollout.guardrails import Seen, check
from hotswap_ray.core.spec.rollout import CanarySpec, plan_of

RATE, LONGEST_S = 20, 3600
PLAN = plan_of("3,25,50", CanarySpec())
LONG = CanarySpec.model_validate({"steps": [{"weight": 0.5, "min_requests": 200}]})
"""A good candidate is looked at some twenty times."""
BAD: dict[str, dict[str, float]] = {
    "errors_20_percent": {"errors": 0.2},
    "p95_twice": {"slower": 2.0},
    "quality_0.2_less": {"quality": 0.6},
    "refuses_a_tenth": {"refusals": 0.1},
    "slow_after_its_role_chunk": {"slower_to_begin": 2.0},
    "fails_in_tool_loops_only": {"errors_in_loops": 0.4},
}


def traffic(
    rng: np.random.Generator,
    number: int,
    errors: float = 0.01,
    slower: float = 1.0,
    quality: float = 0.8,
    refusals: float = 0.0,
    slower_to_begin: float = 1.0,
    errors_in_loops: float = 0.0,
) -> Seen:
    """Requests of a model, every third in a tool loop; one that was refused has no answer."""
    success = (rng.random(number) >= errors) * 1.0
    if errors_in_loops:
        success[::3] = rng.random(len(success[::3])) >= errors_in_loops
    refused = (rng.random(number) < refusals) * 1.0 if refusals else np.zeros(number)
    success *= 1 - refused
    judged = np.where(success > 0, (rng.random(number) < quality) * 1.0, np.nan)
    none = np.full(number, np.nan)
    latency_ms = rng.lognormal(3, 0.4, number) * slower
    # Most of an answer's time goes by before its first token here.
    ttft_ms = latency_ms * 0.8 * slower_to_begin
    at_s = np.arange(number) * 1.0
    return Seen(success, latency_ms, ttft_ms, judged, at_s, none, none, refused)


def head(seen: Seen, number: int) -> Seen:
    """The first requests of a model."""
    return Seen(*(getattr(seen, name)[:number] for name in Seen.__dataclass_fields__))


def canary(seed: int, plan: CanarySpec, **candidate: float) -> tuple[str, int, int]:
    """Run a canary to its end.

    Returns:
        How it ends (``out``, ``on`` after the last step, or ``doubt``), requests of the
        candidate, and of both models.
    """
    rng = np.random.default_rng(seed)
    old = traffic(rng, RATE * LONGEST_S)
    new = traffic(rng, RATE * LONGEST_S, **candidate)
    begun = both = 0
    move = "wait"
    for step in plan.steps:
        before = begun
        for second in range(1, LONGEST_S):
            begun, both = begun + int(rng.binomial(RATE, step.weight)), both + RATE
            checks = check(plan.guardrails, head(old, both - begun), head(new, begun))
            move, _ = next_move(plan, step, checks, begun - before, second)
            if move != "wait":
                break
        if move != "on":
            break
    return move, begun, both


def equivalent_after(seed: int, most: int = 20_000) -> int | None:
    """Pairs of two models that are right equally often until their test says equivalent."""
    rng = np.random.default_rng(seed)
    test = PairTest()
    for seen in range(0, most, 100):
        right = rng.random((2, 100)) < 0.8
        test.extend((right[0] * 1.0 - right[1]).tolist())
        if (said := test.verdict(1)) in ("equivalent", "better", "worse"):
            return seen + 100 if said == "equivalent" else None
    return None


def simulate(seeds: int = 50, runs: int = 200) -> dict[str, Any]:
    """All of it, as it stands in the benchmark's result.

    Returns:
        For each bad candidate the median share of its test's requests that it got, their median
        number, and how many of the seeds were out or let through; ``good_out_wrongly`` of the
        runs; requests of an equal candidate until it has passed all steps; and of the pairs of
        equal models how many ended as equivalent, and when.
    """
    bad: dict[str, dict[str, float]] = {}
    for name, candidate in BAD.items():
        ends = [canary(seed, PLAN, **candidate) for seed in range(seeds)]
        out = [(new, both) for move, new, both in ends if move == "out"]
        bad[name] = {
            "share": round(statistics.median(new / both for new, both in out), 4),
            "requests": statistics.median(new for new, _ in out),
            "out": len(out) / seeds,
            "let_through": sum(move == "on" for move, _, _ in ends) / seeds,
        }
    good = [canary(seed, LONG)[0] for seed in range(runs)]
    passing = [canary(seed, PLAN)[:2] for seed in range(runs)]
    equal = [equivalent_after(seed) for seed in range(seeds)]
    ended = [pairs for pairs in equal if pairs is not None]
    return {
        "bad": bad,
        "good_out_wrongly": good.count("out") / runs,
        "good_passed": sum(move == "on" for move, _ in passing) / runs,
        "good_passed_after": statistics.median(new for _, new in passing),
        "equal_is_equivalent": len(ended) / seeds,
        "equal_pairs_median": statistics.median(ended) if ended else None,
    }


if __name__ == "__main__":
    print(json.dumps(simulate()))
