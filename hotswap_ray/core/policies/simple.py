"""Policies to compare with: always the same, each in turn, the best but for a coin."""

from __future__ import annotations

import random

from hotswap_ray.core.policies.selection import Snapshot, best


class Fixed:
    """Always the same model.

    Args:
        model: Model id; without one the active model, at the start the first.
    """

    def __init__(self, model: str | None = None) -> None:
        self.model = model

    def select(self, snapshot: Snapshot, rng: random.Random) -> str:
        """The stated model, or the active one where that may not serve."""
        models = [arm.model for arm in snapshot.arms]
        for name in (self.model, snapshot.active):
            if name in models:
                return str(name)
        return models[0]

    def update(self, arm: str, reward: float | None) -> None:
        """Nothing to learn."""


class RoundRobin:
    """Each model in turn: every one gets the same share."""

    def __init__(self) -> None:
        self._turn = -1

    def select(self, snapshot: Snapshot, rng: random.Random) -> str:
        """The next model."""
        self._turn = (self._turn + 1) % len(snapshot.arms)
        return snapshot.arms[self._turn].model

    def update(self, arm: str, reward: float | None) -> None:
        """Nothing to learn."""


class EpsilonGreedy:
    """The model of the highest belief, but any of them with probability epsilon.

    Args:
        epsilon: Share of requests that explore, in [0, 1].
    """

    def __init__(self, epsilon: float = 0.1) -> None:
        if not 0 <= epsilon <= 1:
            raise TypeError("epsilon must be in [0, 1]")
        self.epsilon = epsilon

    def select(self, snapshot: Snapshot, rng: random.Random) -> str:
        """A coin decides between exploring and the best."""
        if rng.random() < self.epsilon:
            return rng.choice(snapshot.arms).model
        return best(snapshot.arms).model

    def update(self, arm: str, reward: float | None) -> None:
        """Nothing: the snapshot carries what was observed."""
