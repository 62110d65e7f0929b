"""Thompson sampling over believed rewards, drawn once per block."""

from __future__ import annotations

import random

from hotswap_ray.core.selection import Snapshot


class Thompson:
    """Draw a reward for each model from its belief and serve the best draw for a block.

    A draw is ``belief + width * sd * z`` with z standard normal, never below the belief.
    Both changes to the textbook rule are Chapelle and Li's (An empirical evaluation of
    Thompson sampling, 2011): a posterior narrower than its own (``width`` < 1) wastes
    less of a finite run on models that are probably worse, and the optimistic draw
    explores only upwards (May et al. 2012).

    A block keeps prompt caches warm and changes rare. It is as long as the model's own
    samples, within ``shortest`` and ``longest``: an unknown model is tried briefly, a known one
    kept (epochs that grow, as in UCB2 of Auer et al. 2002).

    Args:
        width: Scale of the posterior's standard deviation; 1 is the textbook's.
        shortest: Fewest requests of a block.
        longest: Most requests of a block.

    Example:
        >>> from hotswap_ray.core.selection import Arm
        >>> known = Arm("good", 500, 0.9, belief=0.9, sd=0.01), Arm("bad", 500, 0.2, belief=0.2,
        ...                                                         sd=0.01)
        >>> Thompson().select(Snapshot("t", known), random.Random(1))
        'good'
    """

    def __init__(self, width: float = 0.75, shortest: int = 4, longest: int = 12) -> None:
        if not 0 < width <= 10 or not 1 <= shortest <= longest:
            raise TypeError("width must be in (0, 10], and shortest in [1, longest]")
        self.width = width
        self.shortest = shortest
        self.longest = longest
        self._arm: str | None = None
        self._left = 0

    def select(self, snapshot: Snapshot, rng: random.Random) -> str:
        """The block's model, or a new draw when the block is over or its model is gone."""
        if self._left > 0 and self._arm is not None:
            for arm in snapshot.arms:
                if arm.model == self._arm:
                    self._left -= 1
                    return self._arm
        chosen, highest = snapshot.arms[0], float("-inf")
        width, gauss = self.width, rng.gauss
        for arm in snapshot.arms:
            # A tie of equal beliefs must not always fall to the first one.
            draw = arm.belief + max(width * arm.sd * gauss(0.0, 1.0), 1e-9 * rng.random())
            if draw > highest:
                chosen, highest = arm, draw
        self._arm = chosen.model
        self._left = int(min(max(chosen.count, self.shortest), self.longest)) - 1
        return self._arm

    def update(self, arm: str, reward: float | None) -> None:
        """Nothing: the snapshot carries what was observed."""
