"""What one model made of golden prompts, and the mean of it with its interval."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Z_95 = 1.959964


@dataclass(frozen=True, slots=True)
class GoldenResult:
    """What one model made of one golden prompt.

    Attributes:
        task: Task.
        key: The prompt's ``golden_key``.
        model: Model that was asked.
        weight: Of the prompt, above 0.
        success: Whether an answer came.
        quality: In [0, 1]; ``None`` when nothing was judged.
        latency_ms: Whole answer.
        tokens_in: Prompt tokens.
        tokens_out: Answer tokens.
        cost_usd: By the prices of the model's spec.
    """

    task: str
    key: str
    model: str
    weight: float
    success: bool
    quality: float | None
    latency_ms: float
    tokens_in: int
    tokens_out: int
    cost_usd: float


def summarise(
    task: str, model: str, results: Sequence[GoldenResult], note: str = ""
) -> dict[str, Any]:
    """One row of the report.

    Args:
        task: Task.
        model: Model.
        results: One per prompt that was asked.
        note: What a reader must know beside the numbers.

    Returns:
        ``task, model, prompts, judged, quality, quality_low, quality_high, success_rate,
        latency_p50_ms, latency_p99_ms, tokens_in, tokens_out, cost_usd, note``. Quality is the
        mean over judged answers by weight, with a 95% Wilson interval; latency is of answers
        that came; tokens and cost are sums. What is not known is ``None``.
    """
    judged = [(r.quality, r.weight) for r in results if r.quality is not None]
    quality, low, high = weighted_mean(judged)
    latencies = [r.latency_ms for r in results if r.success]
    p50, p99 = np.quantile(latencies, (0.5, 0.99)).tolist() if latencies else (None, None)
    return {
        "task": task,
        "model": model,
        "prompts": len(results),
        "judged": len(judged),
        "quality": quality,
        "quality_low": low,
        "quality_high": high,
        "success_rate": sum(r.success for r in results) / len(results) if results else None,
        "latency_p50_ms": p50,
        "latency_p99_ms": p99,
        "tokens_in": sum(r.tokens_in for r in results),
        "tokens_out": sum(r.tokens_out for r in results),
        "cost_usd": sum(r.cost_usd for r in results),
        "note": note,
    }


def weighted_mean(
    judged: Sequence[tuple[float, float]],
) -> tuple[float | None, float | None, float | None]:
    """Mean of values in [0, 1] with a 95% Wilson interval.

    The sample size is Kish's, the number of equal weights that would tell as much. Values
    between 0 and 1 vary less than right and wrong do, so for them the interval is wide.

    Args:
        judged: Value and weight of each.

    Example:
        >>> [round(value, 3) for value in weighted_mean([(1.0, 1.0)] * 20)]
        [1.0, 0.839, 1.0]
        >>> [round(value, 3) for value in weighted_mean([(1.0, 3.0), (0.0, 1.0)])]
        [0.75, 0.169, 0.978]
    """
    if not judged:
        return None, None, None
    total = sum(weight for _, weight in judged)
    mean = sum(value * weight for value, weight in judged) / total
    n = total**2 / sum(weight**2 for _, weight in judged)
    spread = 1 + Z_95**2 / n
    middle = (mean + Z_95**2 / (2 * n)) / spread
    half = Z_95 / spread * math.sqrt(mean * (1 - mean) / n + Z_95**2 / (4 * n**2))
    return mean, max(0.0, middle - half), min(1.0, middle + half)
