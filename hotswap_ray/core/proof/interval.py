"""Where the mean of differences lies, valid at every look: the betting test, inverted.

``core/proof/betting.py`` bets against "the mean is at most m" and is proven right when its wealth
reaches the bar. The means that no bet has refuted yet are an interval, and since the wealth
against the true mean reaches ``2 / alpha`` on either side with probability at most ``alpha / 2``
(Ville), the true mean is inside at *all* times together with probability at least
``1 - alpha``: a confidence sequence (Waudby-Smith and Ramdas, Estimating means of bounded random
variables by betting, JRSS-B 2023, section 4).

The wealth of a bet f on a difference d against the mean m is ``1 + f (d - m) / (1 + m)``, which is
``(1 - f) + f (1 + d) / (1 + m)``: it falls as m rises, so the refuted means lie below one number
and bisection finds it. The other end is the same of ``-d``.

The interval is *not* intersected with earlier ones. Each look needs only the differences seen so
far, their order does not matter, and the interval can never be empty: it holds their mean.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from hotswap_ray.core.proof.betting import BETS, LOG_BETS

STEPS = 22
"""Halvings of the range; an end is exact to half a millionth."""
GRID = 4096
"""More distinct differences than this are rounded down to multiples of ``1 / GRID``."""


def interval(
    differences: Sequence[float] | NDArray[np.float64], alpha: float = 0.05
) -> tuple[float, float]:
    """Lowest and highest mean that the differences have not refuted.

    Args:
        differences: In [-1, 1], in any order.
        alpha: Probability, over the whole life of the sequence, that the mean is ever outside,
            in (0, 1).

    Raises:
        ValueError: A difference is out of range or no number, or ``alpha`` is.

    Example:
        >>> [round(end, 2) for end in interval([0.2, 0.4, 0.0, 0.2] * 100)]
        [0.18, 0.22]
        >>> interval([])
        (-1.0, 1.0)
    """
    d = np.asarray(differences, dtype=float)
    if not 0 < alpha < 1:
        raise ValueError(f"alpha is {alpha}; it must be in (0, 1)")
    if not bool(np.all(np.abs(d) <= 1)):
        raise ValueError("a difference must be in [-1, 1]")
    if not d.size:
        return -1.0, 1.0
    bar = math.log(2 / alpha)
    return _lowest(d, bar), -_lowest(-d, bar)


def _lowest(d: NDArray[np.float64], bar: float) -> float:
    """The number below which every mean is refuted."""
    values, counts = np.unique(d, return_counts=True)  # judged qualities take few distinct values
    if len(values) > GRID:  # rounding down only costs wealth: the bound stays valid
        values, counts = np.unique(np.floor(d * GRID) / GRID, return_counts=True)
    low, high = -1.0, float(values @ counts / counts.sum())  # no bet wins against the mean itself
    for _ in range(STEPS):
        middle = (low + high) / 2
        gain = (1 + values) / (1 + middle) - 1 if middle > -1 else np.full_like(values, np.inf)
        logs = np.log1p(BETS[:, None] * gain) @ counts
        if float(np.logaddexp.reduce(logs)) - LOG_BETS >= bar:
            low = middle
        else:
            high = middle
    return low
