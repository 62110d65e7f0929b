"""Who gets how much of the traffic of an A/B test: as stated, or by the odds of being the best.

Adaptive shares are Thompson's (Biometrika 1933): each model gets the probability that it is the
best one. Values lie in [0, 1], so a Beta posterior is exact for right and wrong and too wide, thus
careful, for grades between.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from hotswap_ray.core.rollout.ab_pairs import measured
from hotswap_ray.core.rollout.guardrails import Seen
from hotswap_ray.core.spec.ab_test import ABTestSpec

Array = NDArray[np.float64]
CELLS = 2000
"""Parts of [0, 1] that a posterior is summed over."""


def weights_of(
    spec: ABTestSpec, control: str, seen: Mapping[str, Seen], dropped: Collection[str] = ()
) -> dict[str, float]:
    """Share of each variant now; the control gets the rest.

    Set shares are returned as stated, and those of dropped variants go to the control. Adaptive
    ones, from ``min_requests`` values of each model on, are the probabilities of being the best,
    above the floor ``min_weight`` that every model keeps, rounded down to whole percents so that
    small changes need no new route table.

    They keep the test valid because values meet by number, in blocks fixed beforehand.
    ``core/rollout/ab_pairs.py`` explains why, and what adaptive shares require.

    Args:
        spec: The test.
        control: Active model.
        seen: Requests by model.
        dropped: Variants that are out; they get 0.

    Example:
        >>> spec = ABTestSpec(variants=("b", "c"), weights=(0.2, 0.1))
        >>> weights_of(spec, "a", {}, {"c": "too slow"})
        {'b': 0.2, 'c': 0.0}
    """
    live = [control, *(name for name in spec.variants if name not in dropped)]
    values = [measured(spec, seen, model) for model in live]
    if not spec.adaptive or min(map(len, values)) < spec.min_requests:
        return {name: 0.0 if name in dropped else share for name, share in spec.shares.items()}
    spare = 1 - spec.min_weight * len(live)
    chances = dict(zip(live, chances_of_best(values), strict=True))
    return {
        name: max(_percent(spec.min_weight + spare * chances[name]), spec.min_weight)
        if name in chances
        else 0.0
        for name in spec.variants
    }


def chances_of_best(values: Sequence[Array]) -> list[float]:
    """Probability of each model to have the highest mean, by quadrature of Beta posteriors.

    Example:
        >>> poor, good = np.array([0.0, 1.0] * 20), np.array([1.0, 1.0, 1.0, 0.0] * 10)
        >>> [round(chance, 2) for chance in chances_of_best([poor, good, poor])]
        [0.01, 0.98, 0.01]
    """
    x = (np.arange(CELLS) + 0.5) / CELLS
    sums = np.array([[value.sum(), len(value)] for value in values])
    logs = sums[:, :1] * np.log(x) + (sums[:, 1:] - sums[:, :1]) * np.log1p(-x)
    mass = np.exp(logs - logs.max(1, keepdims=True))
    mass /= mass.sum(1, keepdims=True)
    below = mass.cumsum(1) - mass / 2
    best = np.array([(mass[n] * np.delete(below, n, 0).prod(0)).sum() for n in range(len(values))])
    chances: list[float] = (best / best.sum()).tolist()
    return chances


def _percent(share: float) -> float:
    return math.floor(share * 100 + 1e-6) / 100
