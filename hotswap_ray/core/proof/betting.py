"""Anytime-valid tests of two models: look after every sample, the error rate still holds.

A test watches differences ``d = utility(candidate) - utility(active)`` in [-1, 1]. For a
hypothesis "the mean of x is at most 0" it bets a share of its wealth on each x; if the
hypothesis is true no bet gains on average, so the wealth E is a supermartingale that starts
at 1 and by Ville's inequality

    P(E ever reaches 1 / alpha) <= alpha

however often one looks and whenever one stops (Waudby-Smith and Ramdas, Estimating means
of bounded random variables by betting, JRSS-B 2023; Howard et al., Time-uniform confidence
sequences, AoS 2021). The wealth here is the average over ``BETS`` fixed bets,

    E_n = mean over f of  prod_i (1 + f * x_i / max|x|)

a discrete form of Cover's universal portfolio: close to the best bet in hindsight, at a
cost of at most ln(number of bets). Fixed bets make it a sum of logarithms, so the order of
pairs does not matter and two replicas' tests can be merged.

Four hypotheses are watched at once, with a margin m and an equivalence width w:

    ==============  =======================  ==============
    evidence for    hypothesis it refutes    x
    ==============  =======================  ==============
    better          E d <= m                 d - m
    worse           E d >= -m                -d - m
    not_better      E d >= w                 w - d
    not_worse       E d <= -w                d + w
    ==============  =======================  ==============

With K models a task has K - 1 candidates; each needs E >= (K - 1) / alpha (Bonferroni).
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

BETS = np.array([0.03, 0.07, 0.15, 0.25, 0.40, 0.55, 0.75, 0.95])
"""Shares of the largest safe bet: small ones win on small gaps, large ones win early."""
LOG_BETS = math.log(len(BETS))
SIDES = {"better": 0, "worse": 1, "not_better": 2, "not_worse": 3}
Side = Literal["better", "worse", "not_better", "not_worse"]
Verdict = Literal["better", "worse", "equivalent", "not_better", "undecided"]
SIGNS = np.array([1.0, -1.0, -1.0, 1.0])


class PairTest:
    """The test of one candidate against the active model at one task.

    Args:
        margin: Difference that is not worth a promotion, in [0, 0.5].
        width: Differences below this count as none, in (margin, 0.5].

    Attributes:
        count: Differences seen.
        mean: Their mean.

    Example:
        >>> test = PairTest(margin=0.0)
        >>> test.extend([1.0, 0.0] * 8)
        >>> test.verdict(candidates=1)
        'better'
    """

    __slots__ = ("_bets", "_logs", "_shift", "_wealth", "count", "margin", "mean", "width")

    def __init__(self, margin: float = 0.01, width: float = 0.03) -> None:
        if not 0 <= margin <= 0.5 or not margin < width <= 0.5:
            raise ValueError(f"margin {margin} and width {width}: 0 <= margin < width <= 0.5")
        self.margin = margin
        self.width = width
        self._shift = np.array([-margin, -margin, width, width])
        largest_loss = 1 + np.array([margin, margin, -width, -width])
        self._bets = BETS / largest_loss[:, None]
        self._wealth = np.zeros((4, len(BETS)))
        self._logs = [0.0, 0.0, 0.0, 0.0]
        self.count = 0
        self.mean = 0.0

    def extend(self, differences: Sequence[float]) -> None:
        """Take in differences in [-1, 1].

        Raises:
            ValueError: One is out of range or no number; nothing was taken in.
        """
        d = np.asarray(differences, dtype=float)
        if not d.size:
            return
        if not bool(np.all(np.abs(d) <= 1)):
            raise ValueError("a difference of utilities must be in [-1, 1]")
        x = SIGNS[:, None] * d + self._shift[:, None]
        self._wealth += np.log1p(self._bets[:, :, None] * x[:, None, :]).sum(2)
        self._sum_up()
        self.count += d.size
        self.mean += float((d - self.mean).sum()) / self.count

    def log_e(self, side: Side = "better") -> float:
        """Natural logarithm of the evidence for one side; 0 before any difference."""
        return self._logs[SIDES[side]]

    def _sum_up(self) -> None:
        # Done when pairs are added, not at each look: looks read far more tests than get new pairs.
        summed: NDArray[np.float64] = np.logaddexp.reduce(self._wealth, axis=1)
        self._logs = [value - LOG_BETS for value in summed.tolist()]

    def verdict(self, candidates: int, alpha: float = 0.05) -> Verdict:
        """What is proven at level ``alpha``, corrected for the number of candidates.

        Args:
            candidates: Models that are tested against the active one, at least 1.
            alpha: Probability of an error per side over the whole life of the test.
        """
        better, worse, not_better, not_worse = self._logs
        return proven(better, worse, not_better, not_worse, math.log(max(candidates, 1) / alpha))

    def more(self, candidates: int, alpha: float = 0.05) -> int | None:
        """Further differences until "better" if they go on as so far; ``None`` if never."""
        growth = self.log_e("better") / self.count if self.count else 0.0
        missing = math.log(max(candidates, 1) / alpha) - self.log_e("better")
        return math.ceil(max(missing, 0.0) / growth) if growth > 1e-9 else None

    def without(self, part: PairTest) -> PairTest:
        """The test as it were without the differences of ``part``, which are among its own.

        Example:
            >>> whole, part = PairTest(), PairTest()
            >>> whole.extend([0.5, -0.25]), part.extend([0.5])
            (None, None)
            >>> remainder = whole.without(part)
            >>> remainder.count, round(remainder.mean, 6)
            (1, -0.25)
        """
        remainder = PairTest(self.margin, self.width)
        remainder.count = self.count - part.count
        if remainder.count:
            remainder.mean = (self.mean * self.count - part.mean * part.count) / remainder.count
            remainder._wealth = self._wealth - part._wealth
            remainder._sum_up()
        return remainder

    def to_doc(self) -> dict[str, Any]:
        """Plain values for the store; ``from_doc`` gives the same test back."""
        return {
            "margin": self.margin,
            "width": self.width,
            "count": self.count,
            "mean": self.mean,
            "wealth": self._wealth.tolist(),
        }

    @classmethod
    def from_doc(cls, doc: Mapping[str, Any]) -> PairTest:
        """Inverse of ``to_doc``."""
        test = cls(doc["margin"], doc["width"])
        test.count, test.mean = doc["count"], doc["mean"]
        test._wealth = np.array(doc["wealth"])
        test._sum_up()
        return test


def proven(better: float, worse: float, not_better: float, not_worse: float, bar: float) -> Verdict:
    """What evidence proves, each side and the bar as natural logarithms.

    Example:
        >>> proven(0.1, -2.0, 3.2, 4.0, bar=3.0)
        'equivalent'
    """
    if better >= bar:
        return "better"
    if worse >= bar:
        return "worse"
    if not_better >= bar:
        return "equivalent" if not_worse >= bar else "not_better"
    return "undecided"


def differences(
    new: NDArray[np.float64], old: NDArray[np.float64], block: int, ratio: int
) -> NDArray[np.float64]:
    """Means of blocks of new values less those of blocks of old ones, by number.

    With ``block`` 1 these are the differences that ``Matching`` yields one by one.

    Args:
        new: Values in order, shape (n,).
        old: Values in order, shape (m,).
        block: New values of a difference, at least 1.
        ratio: Old values of a difference, at least 1.

    Example:
        >>> differences(np.array([1.0, 0.5]), np.array([0.0, 1.0, 0.5]), block=1, ratio=2).tolist()
        [0.5]
    """
    number = min(len(new) // block, len(old) // ratio)
    means = new[: number * block].reshape(number, block).mean(1)
    result: NDArray[np.float64] = means - old[: number * ratio].reshape(number, ratio).mean(1)
    return result


class Matching:
    """Turns unpaired utilities of two models into differences that keep a test valid.

    The i-th utility of the candidate meets the mean of the i-th ``ratio`` of the active
    model. Which utilities meet depends on their numbers alone, never on their values, so
    the differences are independent and centred on the true one even when the traffic share
    follows the results; the test's bound covers all of them, also those never reached.

    Args:
        ratio: Utilities of the active model per one of the candidate, 1 and up; about the
            ratio of their traffic.
        waiting: Most utilities kept of each side; later ones are skipped unseen.

    Example:
        >>> matching = Matching(ratio=2)
        >>> matching.active(1.0), matching.candidate(0.5), matching.active(0.0)
        ([], [], [0.0])
    """

    __slots__ = ("_active", "_candidate", "_waiting", "ratio")

    def __init__(self, ratio: int = 1, waiting: int = 64) -> None:
        self.ratio = ratio
        self._waiting = max(waiting, ratio)
        self._active: deque[float] = deque()
        self._candidate: deque[float] = deque()

    def active(self, utility: float) -> list[float]:
        """A utility of the active model; the differences it completes."""
        if len(self._active) < self._waiting:
            self._active.append(utility)
        return self._match()

    def candidate(self, utility: float) -> list[float]:
        """A utility of the candidate; the differences it completes."""
        if len(self._candidate) < self._waiting:
            self._candidate.append(utility)
        return self._match()

    def _match(self) -> list[float]:
        completed = []
        while self._candidate and len(self._active) >= self.ratio:
            mean = sum(self._active.popleft() for _ in range(self.ratio)) / self.ratio
            completed.append(self._candidate.popleft() - mean)
        return completed


class FairShare:
    """Admits values so that no source of feedback is most of what was admitted lately.

    Args:
        share: Most of the last admitted values that one source may give, in (0, 1].
        window: How many of them are remembered.

    Example:
        >>> gate = FairShare(window=10)
        >>> sum(gate.admits("troll") for _ in range(100))
        3
    """

    __slots__ = ("_most", "_recent")

    def __init__(self, share: float = 0.34, window: int = 20) -> None:
        self._most = int(share * window)
        self._recent: deque[str] = deque(maxlen=window)

    def admits(self, source: str) -> bool:
        """Whether one more value of this source counts; remembers it if so."""
        if self._recent.count(source) >= self._most:
            return False
        self._recent.append(source)
        return True
