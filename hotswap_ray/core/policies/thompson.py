"""Thompson sampling over believed rewards, drawn once per block."""

from __future__ import annotations

import random

from hotswap_ray.core.policies.selection import Snapshot, best


class Thompson:
    """Draw a reward for each model from its belief and serve the best draw for a block.

    A model's draw is ``belief + width * sd * z`` with z standard normal, but with
    probability ``1 - explore`` just its belief (Jin et al., Thompson sampling with less
    exploration is fast and optimal, ICML 2023): textbook sampling spends too much of a
    finite run on models that are probably worse. ``width`` below 1 narrows the posterior
    to the same end (Chapelle and Li, An empirical evaluation of Thompson sampling, 2011).

    Blocks keep prompt caches warm and changes rare. The model of the highest belief is
    kept for ``longest`` requests, any other is tried for ``shortest``.

    Args:
        width: Scale of the posterior's standard deviation; 1 is the textbook's.
        explore: Probability that a model's reward is drawn at all; 1 is the textbook's.
        shortest: Requests of a block that explores.
        longest: Requests of a block that serves the likely best.

    Example:
        >>> from hotswap_ray.core.policies.selection import Arm
        >>> arms = (Arm("bad", 500, belief=0.2, sd=0.01), Arm("good", 500, belief=0.9, sd=0.01))
        >>> Thompson().select(Snapshot("t", arms), random.Random(1))
        'good'
    """

    def __init__(
        self, width: float = 0.7, explore: float = 0.4, shortest: int = 6, longest: int = 8
    ) -> None:
        if not 0 < width <= 10 or not 0 < explore <= 1 or not 1 <= shortest <= longest:
            raise TypeError(
                "width must be in (0, 10], explore in (0, 1] and shortest in [1, longest]"
            )
        self.width = width
        self.explore = explore
        self.shortest = shortest
        self.longest = longest
        self._arm: str | None = None
        self._remaining = 0

    def select(self, snapshot: Snapshot, rng: random.Random) -> str:
        """The block's model, or a new draw when the block is over or its model is gone."""
        if self._remaining > 0 and self._arm is not None:
            for arm in snapshot.arms:
                if arm.model == self._arm:
                    self._remaining -= 1
                    return self._arm
        arms = list(snapshot.arms)
        tied = len(arms) > 1 and all(arm.belief == arms[0].belief for arm in arms)
        if tied:
            rng.shuffle(arms)  # else a tie would always fall to the first one
        chosen, highest = arms[0], float("-inf")
        for arm in arms:
            draw = arm.belief
            if rng.random() < self.explore:
                draw += self.width * arm.sd * rng.gauss(0.0, 1.0)
            if draw > highest:
                chosen, highest = arm, draw
        self._arm = chosen.model
        is_best = best(arms) is chosen and not tied
        self._remaining = (self.longest if is_best else self.shortest) - 1
        return self._arm

    def update(self, arm: str, reward: float | None) -> None:
        """Nothing: the snapshot carries what was observed."""
