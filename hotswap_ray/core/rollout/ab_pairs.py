"""A variant against the control: values that meet by their number alone, and what they prove.

Two arms of a split are not paired, each request had one answer. Their values meet by number, the
i-th block of one with the i-th block of the other, as ``core.proof.betting.Matching`` joins them.
The size of the blocks is fixed before the first request, never by what was seen: with set shares it
is the ratio of these shares. So the sequence of differences is the same however the traffic is
divided, shares decide only how far it gets, and the betting test of ``core/proof/betting.py``
bounds the error at every length. That is why adaptive shares keep it valid.

Adaptive shares leave the worse arm little traffic, so its values are what a proof waits for, and
each of them should meet several of the other arm. Which arm that is, the hypothesis says: proof
that the variant is better (or not worse) gives its values in blocks of ``BLOCK`` to single ones
of the control, proof that it is worse (or not better) the other way round. Where the hypothesis
is wrong its test is slow, but it is valid either way.

What adaptive shares do ask for is that a model's mean stays put: where the traffic grows harder
for all, shares that change confound the hour with the model, and set shares do not.

An answer judged later than its successors shifts the pairs behind it by one; judging takes
seconds, so that touches the newest pairs only.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hotswap_ray.core.proof.betting import PairTest, Side, Verdict, differences, proven
from hotswap_ray.core.proof.interval import interval
from hotswap_ray.core.rollout.guardrails import Seen
from hotswap_ray.core.spec.ab_test import ABTestSpec

Array = NDArray[np.float64]
BLOCK = 3
"""Values of the better arm per one of the worse while shares adapt."""
MOST_RATIO = 10
"""More values of the control per one of a variant hardly make a difference more certain."""


@dataclass(frozen=True, slots=True)
class Pair:
    """What is known of a variant against the control.

    Attributes:
        spec: The test.
        effect: Difference of the means of all values; ``None`` while an arm has none.
        rising: Differences that may prove "better" and "not worse".
        falling: Those that may prove "worse" and "not better"; the same with set shares.
        block: Values of the variant per difference of ``rising``.
        up: The test of ``rising``.
        down: The test of ``falling``.
    """

    spec: ABTestSpec
    effect: float | None
    rising: Array
    falling: Array
    block: int
    up: PairTest
    down: PairTest

    def log_e(self, side: Side) -> float:
        """Natural logarithm of the evidence for one side."""
        return (self.up if side in ("better", "not_worse") else self.down).log_e(side)

    @property
    def bar(self) -> float:
        """Natural logarithm of the evidence that proves something: K / alpha."""
        return math.log(len(self.spec.variants) / self.spec.alpha)

    @property
    def verdict(self) -> Verdict:
        """What is proven."""
        up, down = self.up.log_e, self.down.log_e
        return proven(up("better"), down("worse"), down("not_better"), up("not_worse"), self.bar)

    @property
    def settled(self) -> bool:
        """Whether no further request is worth its price.

        "Not better" is enough, unless "equivalent" is near: its other side is half proven.
        """
        if self.verdict == "not_better":
            return self.log_e("not_worse") < self.bar / 2
        return self.verdict in ("worse", "equivalent")

    @property
    def interval(self) -> tuple[float, float]:
        """Ends of the effect's confidence sequence at level 1 - alpha / K."""
        alpha = self.spec.alpha / len(self.spec.variants)
        low = interval(self.rising, alpha)[0]
        high = interval(self.falling, alpha)[1]
        return min(low, high), max(low, high)

    @property
    def more(self) -> int | None:
        """Further values of the variant until "better" if all goes on so; ``None`` if never."""
        pairs = self.up.more(len(self.spec.variants), self.spec.alpha)
        return None if pairs is None else pairs * self.block


def pair_of(spec: ABTestSpec, control: str, seen: Mapping[str, Seen], name: str) -> Pair:
    """Compare one variant with the control.

    Args:
        spec: The test.
        control: Active model.
        seen: Requests by model.
        name: The variant.

    Raises:
        ValueError: A value of the metric is outside [0, 1].
    """
    old, new = measured(spec, seen, control), measured(spec, seen, name)
    ratio, block = BLOCK, BLOCK
    if not spec.adaptive:
        block = 1
        shares = spec.shares
        ratio = int((1 - sum(shares.values())) / shares[name] + 1e-6)
        ratio = min(max(ratio, 1), MOST_RATIO)
    falling = differences(new, old, 1, ratio)
    down = _test(spec, falling)
    rising, up = falling, down
    if spec.adaptive:
        rising = differences(new, old, block, 1)
        up = _test(spec, rising)
    effect = float(new.mean() - old.mean()) if len(new) and len(old) else None
    return Pair(spec, effect, rising, falling, block, up, down)


def measured(spec: ABTestSpec, seen: Mapping[str, Seen], model: str) -> Array:
    """Values of a test's metric at one model, in order of arrival; unknown ones are left out.

    Quality is of the answers that were judged. A failed request has none: the guardrail
    ``error_rate`` watches failures, and ``metric: success`` compares nothing else.
    """
    if model not in seen:
        return np.empty(0)
    return seen[model].known(spec.metric)


def _test(spec: ABTestSpec, sample: Array) -> PairTest:
    test = PairTest(spec.margin, spec.equivalence)
    test.extend(sample.tolist())
    return test
