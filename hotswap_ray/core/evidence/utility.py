"""What an answer was worth to a task: one number in [0, 1] from its preferences.

    utility = sum_k weight_k * good_k / sum_k weight_k

Quality is good as it is. Latency, cost and memory have no upper end, so they are set
against the task's reference: ``good = reference / (reference + value)``, which is one half
at the reference. What was not measured is one half for every model: it moves no comparison.
A failed request is worth nothing, whatever it saved.
"""

from __future__ import annotations

from dataclasses import dataclass

from hotswap_ray.core.evidence.cell import Evidence
from hotswap_ray.core.spec.task import Preferences

NEUTRAL = 0.5


@dataclass(frozen=True, slots=True)
class Reference:
    """What is usual at a task; ``None`` where nothing is known.

    Attributes:
        latency_ms: Median answer time over all models.
        cost_usd: Mean cost of a request over all models.
        memory_bytes: Memory of a typical model.
    """

    latency_ms: float | None = None
    cost_usd: float | None = None
    memory_bytes: float | None = None


@dataclass(frozen=True, slots=True)
class Moment:
    """Weight, mean and variance of a stream of rewards; weight 0 means nothing is known."""

    weight: float = 0.0
    mean: float = 0.0
    variance: float = 0.0


def utility(
    preferences: Preferences,
    reference: Reference,
    reward: float | None,
    *,
    success: bool = True,
    latency_ms: float | None = None,
    cost_usd: float | None = None,
    memory_bytes: float | None = None,
) -> float | None:
    """Utility of one answer, or of a model if the values are its means.

    Args:
        preferences: Weights.
        reference: What is usual at the task.
        reward: Quality in [0, 1], or success where the task has no scores.
        success: Whether the request was answered.
        latency_ms: Answer time.
        cost_usd: Cost of the request.
        memory_bytes: Memory of the model.

    Returns:
        In [0, 1]; ``None`` when the reward matters and is missing: missing is missing.

    Example:
        >>> both = Preferences(quality=3, latency=1)
        >>> round(utility(both, Reference(latency_ms=200), 0.8, latency_ms=200), 3)
        0.725
    """
    if not success:
        return 0.0
    total, worth = preferences.quality, 0.0
    if total:
        if reward is None:
            return None
        worth = total * reward
    for weight, value, usual in (
        (preferences.latency, latency_ms, reference.latency_ms),
        (preferences.cost, cost_usd, reference.cost_usd),
        (preferences.memory, memory_bytes, reference.memory_bytes),
    ):
        if weight:
            total += weight
            worth += weight * (NEUTRAL if value is None or not usual else usual / (usual + value))
    return worth / total if total else reward


def reward_share(preferences: Preferences) -> float:
    """Share of the utility that is the reward: how far its uncertainty reaches the utility."""
    secondary = preferences.latency + preferences.cost + preferences.memory
    total = preferences.quality + secondary
    return preferences.quality / total if total else 1.0


def weighs_quality_only(preferences: Preferences) -> bool:
    """Whether the utility of an answer is its reward and nothing else.

    Example:
        >>> weighs_quality_only(Preferences(quality=3))
        True
        >>> weighs_quality_only(Preferences(quality=3, cost=1))
        False
    """
    return reward_share(preferences) == 1.0


def reward_moment(cell: Evidence, scored: bool) -> Moment:
    """Moments of the reward of a request: quality times success, or success alone.

    Args:
        cell: Evidence of one model at a task.
        scored: Whether the task's answers are judged. If so a model without scores is
            unknown, however often it answered.

    Example:
        >>> cell = Evidence("t", "m")
        >>> reward_moment(cell, scored=True)
        Moment(weight=0.0, mean=0.0, variance=0.0)
        >>> cell.score([0.5, 1.0])
        >>> round(reward_moment(cell, scored=True).mean, 2)
        0.75
    """
    success = cell.success_rate
    if not scored:
        if success is None:
            return Moment()
        return Moment(cell.successes + cell.failures, success, success * (1 - success))
    quality = cell.quality
    if not quality.weight:
        return Moment()
    rate = 1.0 if success is None else success
    mean = rate * quality.mean
    return Moment(quality.weight, mean, rate * (quality.variance + quality.mean**2) - mean**2)
