"""Upper confidence bound: optimism in the face of uncertainty."""

from __future__ import annotations

import math
import random

from hotswap_ray.core.policies.selection import Snapshot


class Ucb:
    """Serve the model of the highest ``mean + sqrt(c ln(n) / n_m)`` (UCB1, Auer et al. 2002).

    Args:
        c: Breadth of the bound; 2 is the proof's, 0.5 is enough for rewards in [0, 1].
    """

    def __init__(self, c: float = 0.5) -> None:
        if c <= 0:
            raise TypeError("c must be positive")
        self.c = c

    def select(self, snapshot: Snapshot, rng: random.Random) -> str:
        """A model without observations first, then the highest bound."""
        log_total = math.log(max(sum(arm.count for arm in snapshot.arms), 1.0))
        chosen, highest = snapshot.arms[0].model, -math.inf
        for arm in snapshot.arms:
            if arm.mean is None or arm.count <= 0:
                return arm.model
            bound = arm.mean + math.sqrt(self.c * log_total / arm.count)
            if bound > highest:
                chosen, highest = arm.model, bound
        return chosen

    def update(self, arm: str, reward: float | None) -> None:
        """Nothing: the snapshot carries what was observed."""
