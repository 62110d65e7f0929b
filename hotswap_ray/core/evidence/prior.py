"""What the other tasks say about a model at this one: a prior learned from the data.

The expected reward of model m at task t of parent p is taken apart as

    theta[t, m] = level[t] + slope[t] * model[m] + family[p, m] + own[t, m]

with own ~ Normal(0, tau^2), so that a cell falls back task <- parent <- global. ``level`` is
how hard the task is and says nothing about which model is best; ``slope`` is how well the
task tells models apart, around 1 (the difficulty and discrimination of item response
theory); ``tau`` is how much a model's rank differs from task to task. It is estimated, not
chosen: where ranks differ the prior weighs little, where they agree it weighs up to ``CAP``
pseudo-samples. The estimate of a cell is then

    belief = (n * mean + mass * prior) / (n + mass),   mass = min(sigma^2 / spread^2, CAP)
    sd     = sigma / sqrt(n + mass)

with ``spread^2`` the sum of ``tau^2`` and the variances of the estimated effects (little is
extrapolated from few cells) and ``sigma`` the spread of rewards within a task (Casella, An
introduction to empirical Bayes data analysis, 1985; Efron and Morris 1975). The effects are
ridge estimates found by backfitting; their variances by moments (Fellner, Robust estimation of
variance components, 1986), each pulled to a weak default by a few pseudo-observations, so
that little data gives no zero.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

CAP = 12.0
"""Most pseudo-samples a prior is worth, so that 100 own samples always outweigh it."""
SIGMA2, SIGMA2_MASS = 0.15, 4.0
"""Variance of rewards before any is seen (a coin of 0.8) and its pseudo-samples."""
TAU2, TAU2_MASS = 0.02, 5.0
"""Spread of a model's rank between tasks (sd 0.14) and its pseudo-cells."""
EFFECT2 = 0.05
"""Spread of models' and families' effects (sd 0.22) that the ridge assumes."""
SLOPE2 = 0.25
"""Spread of the slopes around 1 (sd 0.5) that the ridge assumes."""
LEVEL2 = 0.125
"""Spread of the level of tasks around one half (sd 0.35) that the ridge assumes."""
ROUNDS = 6

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Belief:
    """What is believed of one model's reward at one task.

    Attributes:
        mean: Posterior mean.
        sd: Posterior standard deviation of that mean.
        prior: Mean of the prior alone.
        mass: Pseudo-samples that the prior is worth, 0 to ``CAP``.
    """

    mean: float
    sd: float
    prior: float
    mass: float


@dataclass(frozen=True, slots=True)
class Prior:
    """Priors of every cell of a tasks x models table.

    Attributes:
        mean: Prior mean per cell.
        mass: Pseudo-samples per cell.
        sigma2: Variance of rewards per task.
        tau2: Variance of the models' ranks between tasks.
    """

    mean: Array
    mass: Array
    sigma2: Array
    tau2: float

    def belief(self, task: int, model: int, weight: float, mean: float) -> Belief:
        """Join a cell's own evidence with its prior.

        Args:
            task: Row.
            model: Column.
            weight: Own observations, forgotten ones counted less.
            mean: Their mean; ignored when the weight is 0.
        """
        mass, prior = float(self.mass[task, model]), float(self.mean[task, model])
        total = weight + mass
        posterior = (weight * mean + mass * prior) / total if weight else prior
        return Belief(posterior, math.sqrt(float(self.sigma2[task]) / total), prior, mass)


def learn(
    weight: Array, mean: Array, variance: Array, parents: Sequence[str] | None = None
) -> Prior:
    """Estimate the prior of every cell from all cells.

    Args:
        weight: Observations per task (rows) and model (columns).
        mean: Their mean rewards in [0, 1]; ignored where the weight is 0.
        variance: Their population variances.
        parents: Parent of each task; ``None`` when there are none.

    Example:
        Model 1 was better at two tasks, so it is expected to be at a third, unseen one:

        >>> n = np.array([[50.0, 50.0], [50.0, 50.0], [0.0, 0.0]])
        >>> q = np.array([[0.3, 0.7], [0.4, 0.9], [0.0, 0.0]])
        >>> prior = learn(n, q, q * (1 - q))
        >>> bool(prior.mean[2, 1] > prior.mean[2, 0] + 0.2)
        True
        >>> 1 < prior.belief(2, 1, 0.0, 0.0).mass <= CAP
        True
    """
    tasks, models = weight.shape
    observed = weight > 0
    mean = np.where(observed, mean, 0.0)
    sigma2 = _within(weight, variance)
    noise = sigma2[:, None] / np.maximum(weight, 1e-9)
    family = _families(parents, tasks)
    level, slope = np.full((tasks, 1), 0.5), np.ones((tasks, 1))
    model, related, tau2 = np.zeros((1, models)), np.zeros((tasks, models)), TAU2
    for _ in range(ROUNDS):
        trust = np.where(observed, 1 / (tau2 + noise), 0.0)
        residual = mean - slope * model - related
        level = ((trust * residual).sum(1, keepdims=True) + 0.5 / LEVEL2) / (
            trust.sum(1, keepdims=True) + 1 / LEVEL2
        )
        residual = mean - level - related
        model = _ridge(trust * slope**2, residual / slope, None)
        slope = ((trust * model * residual).sum(1, keepdims=True) + 1 / SLOPE2) / (
            (trust * model**2).sum(1, keepdims=True) + 1 / SLOPE2
        )
        slope = np.maximum(slope, 0.1)
        if family is not None:
            related = _ridge(trust, mean - level - slope * model, family)
        # Variance of what the effects leave (Fellner 1986): u'u over its degrees of freedom,
        # less those that the ridge estimates used up.
        by_task, by_model = trust.sum(1), (trust * slope**2).sum(0)
        by_slope = (trust * model**2).sum(1)
        used = sum(
            float((precision / (precision + 1 / spread2)).sum())
            for precision, spread2 in ((by_task, LEVEL2), (by_model, EFFECT2), (by_slope, SLOPE2))
        )
        own = tau2 * trust * (mean - level - slope * model - related)
        freedom = max(tau2 * float(trust.sum()) - used, 0.0)
        tau2 = (float((own**2).sum()) + TAU2 * TAU2_MASS) / (freedom + TAU2_MASS)
        tau2 = min(max(tau2, 1e-4), 0.25)
    trust = np.where(observed, 1 / (tau2 + noise), 0.0)
    level_variance = 1 / (trust.sum(1, keepdims=True) + 1 / LEVEL2)
    model_variance = 1 / ((trust * slope**2).sum(0, keepdims=True) + 1 / EFFECT2)
    spread2 = tau2 + level_variance + slope**2 * model_variance
    mass = np.minimum(sigma2[:, None] / spread2, CAP)
    return Prior(level + slope * model + related, mass, sigma2, tau2)


def _within(weight: Array, variance: Array) -> Array:
    """Spread of rewards within each task, pulled to that of all tasks."""
    squares = (weight * variance).sum(1)
    freedom = np.maximum(weight - 1, 0).sum(1)
    overall = (squares.sum() + SIGMA2 * SIGMA2_MASS) / (freedom.sum() + SIGMA2_MASS)
    pooled = (squares + overall * SIGMA2_MASS) / (freedom + SIGMA2_MASS)
    result: Array = np.maximum(pooled, 0.01)
    return result


def _families(parents: Sequence[str] | None, tasks: int) -> Array | None:
    """Indicator of shape parents x tasks; ``None`` when nothing is nested."""
    if parents is None or len(set(parents)) in (1, tasks):
        return None
    names = sorted(set(parents))
    return np.array([[float(parent == name) for parent in parents] for name in names])


def _ridge(trust: Array, residual: Array, family: Array | None) -> Array:
    """Effect of each model, over all tasks or within each family, shrunk to zero."""
    weighted = trust * residual
    if family is None:
        effect: Array = weighted.sum(0, keepdims=True) / (trust.sum(0, keepdims=True) + 1 / EFFECT2)
        return effect
    within: Array = family.T @ ((family @ weighted) / (family @ trust + 1 / EFFECT2))
    return within
