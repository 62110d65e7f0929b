"""What a candidate that passed all steps of its canary has proven, and what not.

Its requests are matched with the active model's as in ``core/rollout/guardrails.py``; nothing is
waited for, so most short canaries end as ``passed``: no harm was seen, and nothing is proven.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from hotswap_ray.core.proof.betting import PairTest, Side
from hotswap_ray.core.rollout.guardrails import Array, Seen, matched

CanaryResult = Literal["better", "equivalent", "not_worse", "passed"]
WIDTH = 0.03
"""Differences below this count as none."""
ALPHA = 0.05


@dataclass(frozen=True, slots=True)
class Conclusion:
    """How a candidate compares with the model it replaces.

    Attributes:
        result: ``better``, ``equivalent`` within ``WIDTH``, ``not_worse`` by more than that,
            or ``passed``: nothing is proven.
        sentence: The same for a person, with the numbers.
    """

    result: CanaryResult
    sentence: str


def conclude(old_name: str, new_name: str, active: Seen, candidate: Seen) -> Conclusion:
    """Compare by quality where both were judged, else by success.

    Args:
        old_name: Id of the active model.
        new_name: Id of the candidate.
        active: Requests of the active model.
        candidate: Those of the candidate, over the same time.

    Example:
        >>> import numpy as np
        >>> none = np.full(400, np.nan)
        >>> fine = Seen(np.ones(400), none, none, none, none, none, none)
        >>> conclude("small", "large", fine, fine).sentence
        'large and small are equivalent within 0.03: success 1.000 against 1.000, 400 requests'
    """
    metric, old, new = _compared(active, candidate)
    if not (len(old) and len(new)):
        return Conclusion("passed", f"nothing is proven of {new_name}: no requests to compare")
    test = PairTest(margin=0.0, width=WIDTH)
    test.extend(matched(old, new).tolist())
    result = _result(test)
    claim = {
        "better": f"{new_name} is better than {old_name}",
        "equivalent": f"{new_name} and {old_name} are equivalent within {WIDTH:g}",
        "not_worse": f"{new_name} is not worse than {old_name} by {WIDTH:g}",
        "passed": f"nothing is proven of {new_name} and {old_name} yet",
    }[result]
    numbers = f"{metric} {new.mean():.3f} against {old.mean():.3f}, {len(new)} requests"
    return Conclusion(result, f"{claim}: {numbers}")


def _compared(active: Seen, candidate: Seen) -> tuple[str, Array, Array]:
    old, new = active.known("quality"), candidate.known("quality")
    if len(old) and len(new):
        return "quality", old, new
    return "success", active.success, candidate.success


def _result(test: PairTest) -> CanaryResult:
    def is_proven(side: Side) -> bool:
        return test.log_e(side) >= -math.log(ALPHA)

    if is_proven("better"):
        return "better"
    if is_proven("not_worse"):
        return "equivalent" if is_proven("not_better") else "not_worse"
    return "passed"
