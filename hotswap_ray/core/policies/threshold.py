"""The rule of the first arbiter, for comparison: leave a model that is not good enough."""

from __future__ import annotations

import random

from hotswap_ray.core.policies.selection import Arm, Snapshot


class Threshold:
    """One active model; after a cooldown, swap when it disappoints and another looks better.

    It disappoints when its success rate is below ``least_success``, or its mean reward is
    below 0.9 of the task's quality target. "Looks better" is a higher mean: no test.

    Args:
        least_success: Success rate that is acceptable, in [0, 1].
        min_samples: Observations before a mean counts.
        cooldown: Requests after a swap before the next one.
        explore: Share of requests to any model, so that there are means to compare.
    """

    def __init__(
        self,
        least_success: float = 0.8,
        min_samples: int = 10,
        cooldown: int = 50,
        explore: float = 0.15,
    ) -> None:
        self.least_success = least_success
        self.min_samples = min_samples
        self.cooldown = cooldown
        self.explore = explore
        self._active: str | None = None
        self._since_swap = 0

    def select(self, snapshot: Snapshot, rng: random.Random) -> str:
        """The active model, unless the coin explores or the rule has just swapped."""
        arms = {arm.model: arm for arm in snapshot.arms}
        if self._active not in arms:
            start = snapshot.active
            self._active = start if start in arms else rng.choice(snapshot.arms).model
            self._since_swap = 0
        active = arms[str(self._active)]
        if self._since_swap >= self.cooldown and self._disappoints(active, snapshot.quality_target):
            measured = [arm for arm in snapshot.arms if arm.count >= self.min_samples]
            top = max(measured, key=_mean)
            if _mean(top) > _mean(active):
                self._active, self._since_swap = top.model, 0
        self._since_swap += 1
        if rng.random() < self.explore:
            return rng.choice(snapshot.arms).model
        return str(self._active)

    def update(self, arm: str, reward: float | None) -> None:
        """Nothing: the snapshot carries what was observed."""

    def _disappoints(self, active: Arm, target: float) -> bool:
        if active.count < self.min_samples:
            return False
        success = 1.0 if active.success_rate is None else active.success_rate
        return success < self.least_success or _mean(active) < 0.9 * target


def _mean(arm: Arm) -> float:
    return -1.0 if arm.mean is None else arm.mean
