"""Quantiles with a stated relative error that forget old values, in bounded memory.

DDSketch (Masson, Rim, Lee: DDSketch, VLDB 2019): value x is counted in bucket
``ceil(log_gamma(x))`` with ``gamma = (1 + a) / (1 - a)``, so that any quantile read from a
bucket's middle is within a relative error of ``a``. The package of that name is not used because
it lacks two things: counts that decay, and batches that numpy counts at once.
"""

from __future__ import annotations

import math
from base64 import b64decode, b64encode
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

LEAST = 1e-3
"""Values at or below this are counted as zero."""
SMALL_BATCH = 6
"""Up to so many values a loop is faster than numpy."""


class Sketch:
    """Exponentially forgotten distribution of non-negative values.

    Args:
        accuracy: Relative error of quantiles, 0.02 is 2%.
        max_bins: Bound on buckets; beyond it the lowest collapse into one, so that high
            quantiles keep their accuracy. 320 bins at 2% span a factor of 360,000.
        decay: Weight that an old value keeps when a new one arrives, in (0, 1].

    Example:
        >>> sketch = Sketch()
        >>> sketch.extend([float(value) for value in range(1, 1001)])
        >>> abs(sketch.quantile(0.99) - 990) < 0.02 * 990
        True
    """

    __slots__ = ("_bins", "_first", "_gamma", "_per_log", "accuracy", "decay", "max_bins", "total",
                 "weight", "zeros")  # fmt: skip

    def __init__(self, accuracy: float = 0.02, max_bins: int = 320, decay: float = 1.0) -> None:
        self.accuracy = accuracy
        self.max_bins = max_bins
        self.decay = decay
        self._gamma = (1 + accuracy) / (1 - accuracy)
        self._per_log = 1 / math.log(self._gamma)
        self._bins: NDArray[np.float64] = np.zeros(0)
        self._first = 0
        self.zeros = 0.0
        self.weight = 0.0
        self.total = 0.0

    @property
    def mean(self) -> float | None:
        """Weighted mean, exact; ``None`` when empty."""
        return self.total / self.weight if self.weight else None

    def extend(self, values: Sequence[float]) -> None:
        """Count values in their order; each must be finite and not negative."""
        if len(values) <= SMALL_BATCH:
            for value in values:
                self._add(value)
            return
        array = np.asarray(values, dtype=np.float64)
        weights = self.decay ** np.arange(len(array) - 1, -1, -1, dtype=np.float64)
        self._forget(self.decay ** len(array))
        self.weight += float(weights.sum())
        self.total += float(weights @ array)
        positive = array > LEAST
        self.zeros += float(weights[~positive].sum())
        if positive.any():
            keys = np.ceil(np.log(array[positive]) * self._per_log).astype(np.int64)
            self._cover(int(keys.min()), int(keys.max()))
            slots = np.maximum(keys - self._first, 0)
            self._bins += np.bincount(slots, weights[positive], len(self._bins))

    def _add(self, value: float) -> None:
        self._forget(self.decay)
        self.weight += 1
        self.total += value
        if value <= LEAST:
            self.zeros += 1
            return
        key = math.ceil(math.log(value) * self._per_log)
        slot = key - self._first
        if not 0 <= slot < len(self._bins):
            self._cover(key, key)
            slot = max(key - self._first, 0)
        self._bins[slot] += 1

    def _forget(self, factor: float) -> None:
        if factor != 1.0:
            self._bins *= factor
            self.zeros *= factor
            self.weight *= factor
            self.total *= factor

    def _cover(self, low: int, high: int) -> None:
        """Make room for keys; those below the bound share the lowest bucket."""
        if len(self._bins):
            low = min(low, self._first)
            high = max(high, self._first + len(self._bins) - 1)
        low = max(low, high - self.max_bins + 1)
        if low == self._first and high - low + 1 == len(self._bins):
            return
        grown = np.zeros(high - low + 1)
        if len(self._bins):
            slots = np.maximum(np.arange(len(self._bins)) + self._first - low, 0)
            np.add.at(grown, slots, self._bins)
        self._bins, self._first = grown, low

    def quantile(self, q: float) -> float | None:
        """Value below which a share ``q`` in [0, 1] lies; ``None`` when empty."""
        if not self.weight:
            return None
        rank = q * (self.weight - min(1.0, self.weight))
        if rank < self.zeros or not len(self._bins):
            return 0.0
        reached = self.zeros + np.cumsum(self._bins)
        slot = min(int(np.searchsorted(reached, rank, side="right")), len(self._bins) - 1)
        return float(2 * self._gamma ** (slot + self._first) / (self._gamma + 1))

    def merge(self, other: Sketch) -> None:
        """Add what the other has seen.

        Raises:
            ValueError: The two differ in accuracy.
        """
        if other.accuracy != self.accuracy:
            raise ValueError(f"accuracy {self.accuracy} cannot take in {other.accuracy}")
        if len(other._bins):
            self._cover(other._first, other._first + len(other._bins) - 1)
            slots = np.maximum(np.arange(len(other._bins)) + other._first - self._first, 0)
            np.add.at(self._bins, slots, other._bins)
        self.zeros += other.zeros
        self.weight += other.weight
        self.total += other.total

    def to_doc(self) -> dict[str, Any]:
        """Plain values; the counts are kept to the last bit."""
        return {
            "first": self._first,
            "bins": b64encode(self._bins.tobytes()).decode(),
            "zeros": self.zeros,
            "weight": self.weight,
            "total": self.total,
        }

    def load(self, doc: dict[str, Any]) -> Sketch:
        """Take the counts of ``to_doc`` into this sketch, made with the same arguments."""
        self._first = int(doc["first"])
        self._bins = np.frombuffer(b64decode(doc["bins"]), dtype=np.float64).copy()
        self.zeros, self.weight, self.total = doc["zeros"], doc["weight"], doc["total"]
        return self
