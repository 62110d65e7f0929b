"""How soon a rollout is rid of a bad candidate, and how often of a good one, simulated.

Requests are drawn to the candidate one by one with the probability of the step, as a hash of
their conversations does it, and the product's guardrails look after every fifth of them. The
active model fails 1% of the time, answers log-normally in time and is right in 80%. The test of
a candidate begins with its canary, that is with the time to settle, at 20 requests a second.
Seeds are fixed. ``rollouts.py`` prints these numbers with its own; alone:

    python benchmarks/rollout_errors.py
"""

from __future__ import annotations

import json
import statistics
from typing import Any

import numpy as np

from hotswap_ray.core.decision import PairTest
from hotswap_ray.core.guardrails import GuardrailSpec, Seen, check, verdict
from hotswap_ray.core.rollout import CanarySpec

WEIGHT, EVERY, MOST = 0.05, 5, 400
SETTLING = round(20 * CanarySpec().settle_s)
"""Requests while conversations are got to know and the candidate gets none yet."""
BAD: dict[str, dict[str, float]] = {
    "errors_20_percent": {"errors": 0.2},
    "p95_twice": {"slower": 2.0},
    "quality_0.2_less": {"quality": 0.6},
}


def traffic(
    rng: np.random.Generator,
    number: int,
    errors: float = 0.01,
    slower: float = 1.0,
    quality: float = 0.8,
) -> Seen:
    """Requests of a model."""
    success = (rng.random(number) >= errors) * 1.0
    judged = np.where(success > 0, (rng.random(number) < quality) * 1.0, np.nan)
    none = np.full(number, np.nan)
    latency_ms = rng.lognormal(3, 0.4, number) * slower
    return Seen(success, latency_ms, none, judged, np.arange(number) * 1.0, none, none)


def head(seen: Seen, number: int) -> Seen:
    """The first requests of a model."""
    return Seen(*(getattr(seen, name)[:number] for name in Seen.__dataclass_fields__))


def out_after(
    seed: int, weight: float = WEIGHT, most: int = MOST, **candidate: float
) -> tuple[int, int] | None:
    """Requests of the candidate and of the whole test until a guardrail fails; else ``None``."""
    rng = np.random.default_rng(seed)
    # How many of the active model's come before each of the candidate's.
    before = np.cumsum(rng.geometric(weight, most) - 1)
    old, new = traffic(rng, int(before[-1])), traffic(rng, most, **candidate)
    for number in range(EVERY, most + 1, EVERY):
        others = int(before[number - 1])
        if verdict(check(GuardrailSpec(), head(old, others), head(new, number))) == "failed":
            return number, SETTLING + number + others
    return None


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
        For each bad candidate the median share of its test's requests that it got, the median
        number of them, and how many of the seeds it was out in; ``good_out_wrongly`` of the
        runs; and of the pairs of equal models how many ended as equivalent, and when.
    """
    bad: dict[str, dict[str, float]] = {}
    for name, candidate in BAD.items():
        ends = [end for seed in range(seeds) if (end := out_after(seed, **candidate))]
        bad[name] = {
            "share": round(statistics.median(n / whole for n, whole in ends), 4),
            "requests": statistics.median(n for n, _ in ends),
            "out": len(ends) / seeds,
        }
    wrong = sum(out_after(seed, 0.5, 200) is not None for seed in range(runs))
    equal = [equivalent_after(seed) for seed in range(seeds)]
    ended = [pairs for pairs in equal if pairs is not None]
    return {
        "bad": bad,
        "good_out_wrongly": wrong / runs,
        "equal_is_equivalent": len(ended) / seeds,
        "equal_pairs_median": statistics.median(ended) if ended else None,
    }


if __name__ == "__main__":
    print(json.dumps(simulate()))
