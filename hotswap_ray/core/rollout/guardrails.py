"""Is a candidate worse than the active model over the same stretch of time?

Each guardrail compares one metric. It *failed* when the candidate is proven worse than the
limit, by the betting test of ``core/proof/betting.py``: one may look after every request, and the
probability of failing a candidate that keeps within the limit is at most ``alpha`` per
guardrail. It *passed* when there were enough requests and what was seen keeps within the
limit; it is *inconclusive* otherwise, and an *error* when the metric could not be measured.

Latency is compared by how many of the candidate's answers are slower than the limit allows the
95th percentile to be: 5% where it keeps within it, however latencies are distributed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from hotswap_ray.core.proof.betting import PairTest, differences
from hotswap_ray.core.spec.rollout import GuardrailSpec, Metric

Array = NDArray[np.float64]
GuardrailStatus = Literal["passed", "failed", "inconclusive", "error"]
TAIL = 0.05
SLACK = 0.05
"""Answers beyond the tail that prove nothing: the incumbent's percentile is an estimate."""
BOTH_FAIL = 0.5
"""Share of failures from which on a model is taken for down."""


@dataclass(frozen=True, slots=True)
class GuardrailResult:
    """What one guardrail found.

    Attributes:
        metric: Name of the guardrail.
        result: ``passed``, ``failed``, ``inconclusive`` or ``error``.
        detail: The numbers, for a person.
        requests: Values of the candidate behind it.
    """

    metric: str
    result: GuardrailStatus
    detail: str
    requests: int = 0


@dataclass(frozen=True, slots=True)
class Seen:
    """Requests of one model in order of arrival; NaN where a value is missing.

    Attributes:
        success: 1 or 0; a refusal is none.
        latency_ms: First byte in to last byte out.
        ttft_ms: Time to the first token.
        quality: In [0, 1].
        at_s: Arrival, Unix time.
        cost_usd: Price of its tokens.
        format_ok: 1 if the answer has the form that was asked for, else 0.
        refused: 1 if the model answered 4xx to what the active one then took, else 0; none was
            where it is left out.
        wrong_form: What was wrong with the last answer that had not its form, for people.
    """

    success: Array
    latency_ms: Array
    ttft_ms: Array
    quality: Array
    at_s: Array
    cost_usd: Array
    format_ok: Array
    refused: Array = None  # type: ignore[assignment] # filled in below
    wrong_form: str = ""

    def __post_init__(self) -> None:
        if self.refused is None:
            object.__setattr__(self, "refused", np.zeros(len(self.success)))

    def where(
        self, arrived: Callable[[Array], NDArray[np.bool_]], newest: int | None = None
    ) -> Seen:
        """Those whose arrival fits, and of them the newest."""
        keep = np.flatnonzero(arrived(self.at_s))[-newest if newest else None :]
        names = [name for name in self.__dataclass_fields__ if name != "wrong_form"]
        kept = {name: getattr(self, name)[keep] for name in names}
        return Seen(**kept, wrong_form=self.wrong_form)

    def known(self, name: Literal["success", "quality", "cost_usd", "format_ok"]) -> Array:
        """Values of the requests that have one, in order of arrival."""
        values: Array = getattr(self, name)
        return values[~np.isnan(values)]

    def of_successes(self, name: Literal["latency_ms", "ttft_ms"]) -> Array:
        """Times of the requests that were answered, where they are known."""
        values: Array = getattr(self, name)[self.success > 0]
        return values[~np.isnan(values)]


def check(spec: GuardrailSpec, active: Seen, candidate: Seen) -> list[GuardrailResult]:
    """Compare two models on their requests of the same time.

    Args:
        spec: The limits.
        active: Requests of the active model.
        candidate: Those of the candidate.

    Example:
        >>> none, quick = np.full(60, np.nan), np.full(60, 10.0)
        >>> all_ok, half = np.ones(60), np.arange(60) % 2.0
        >>> good = Seen(all_ok, quick, none, none, none, none, none)
        >>> bad = Seen(half, quick, none, none, none, none, none)
        >>> [(row.metric, row.result) for row in check(GuardrailSpec(), good, bad)]
        [('error_rate', 'failed'), ('refusal_rate', 'passed'), ('latency_p95', 'passed')]
    """
    results: list[GuardrailResult] = []
    if spec.error_rate is not None:
        old, new = (1 - seen.success - seen.refused for seen in (active, candidate))
        results.append(_means("error_rate", spec.error_rate, spec, old, new, "failures"))
    if spec.refusal_rate is not None:
        old, new = active.refused, candidate.refused
        results.append(_means("refusal_rate", spec.refusal_rate, spec, old, new, "refusals"))
    if spec.latency_p95 is not None:
        old, new = active.of_successes("latency_ms"), candidate.of_successes("latency_ms")
        results.append(_tail("latency_p95", spec.latency_p95, spec, old, new))
    if spec.ttft_p95 is not None:
        old, new = active.of_successes("ttft_ms"), candidate.of_successes("ttft_ms")
        if _looked_at("ttft_p95", spec, old, new):  # answers that are not streamed have none
            results.append(_tail("ttft_p95", spec.ttft_p95, spec, old, new))
    if spec.quality is not None:
        old, new = active.known("quality"), candidate.known("quality")
        if _looked_at("quality", spec, old, new):  # somebody judges this task
            results.append(_means("quality", spec.quality, spec, 1 - old, 1 - new, "quality lost"))
    if spec.cost is not None:
        old, new = active.known("cost_usd"), candidate.known("cost_usd")
        if _looked_at("cost", spec, old, new):  # somebody has a price
            results.append(_price("cost", spec.cost, spec, old, new))
    if spec.format_validity is not None:
        old, new = 1 - active.known("format_ok"), 1 - candidate.known("format_ok")
        # A form that hardly any client asks for must not delay the whole rollout.
        common = len(new) >= spec.min_requests or 2 * len(new) > len(candidate.success)
        if common or "format_validity" in spec.required:
            limit = spec.format_validity
            result = _means("format_validity", limit, spec, old, new, "wrong forms")
            if candidate.wrong_form and new.any():
                detail = f"{result.detail}; the last: {candidate.wrong_form}"
                result = replace(result, detail=detail)
            results.append(result)
    return results


def _looked_at(metric: Metric, spec: GuardrailSpec, old: Array, new: Array) -> bool:
    return bool(len(old) or len(new) or metric in spec.required)


def overall(checks: Sequence[GuardrailResult]) -> GuardrailStatus:
    """All guardrails together: one that failed decides; errors and doubts wait."""
    results = {check.result for check in checks}
    order: tuple[GuardrailStatus, ...] = ("failed", "error", "inconclusive", "passed")
    return next((result for result in order if result in results), "error")


def failures(checks: Sequence[GuardrailResult]) -> list[str]:
    """The guardrails that failed, with their numbers.

    Example:
        >>> passed = GuardrailResult("quality", "passed", "")
        >>> failures([GuardrailResult("cost", "failed", "too dear"), passed])
        ['cost: too dear']
    """
    return [f"{check.metric}: {check.detail}" for check in checks if check.result == "failed"]


def both_fail(spec: GuardrailSpec, active: Seen, candidate: Seen) -> str:
    """Why a comparison says nothing: both models fail at least half of their latest requests.

    Returns:
        A sentence; empty where they do not, or too few requests are there to tell.

    Example:
        >>> none = np.full(20, np.nan)
        >>> down = Seen(np.zeros(20), none, none, none, none, none, none)
        >>> both_fail(GuardrailSpec(), down, down)
        'both models fail: 100% of the latest 20 requests of the active one, 100% of the other'
    """
    least = spec.min_requests
    latest = [seen.success[-least:] for seen in (active, candidate)]
    if any(len(outcomes) < least or outcomes.mean() > 1 - BOTH_FAIL for outcomes in latest):
        return ""
    old, new = (f"{1 - outcomes.mean():.0%}" for outcomes in latest)
    return (
        f"both models fail: {old} of the latest {least} requests of the active one, "
        f"{new} of the other"
    )


def _means(
    metric: str, limit: float, spec: GuardrailSpec, old: Array, new: Array, what: str
) -> GuardrailResult:
    """Values in [0, 1] where more is worse: is the candidate's mean more than ``limit`` higher?"""
    if len(new) < spec.min_requests or len(old) < spec.min_requests:
        return _few(metric, spec, len(old), len(new))
    test = PairTest(margin=limit, width=limit + 0.1)
    test.extend(matched(old, new).tolist())
    within = bool(new.mean() - old.mean() <= limit)
    detail = f"{what} {new.mean():.3f} against {old.mean():.3f}, {limit:+.3f} allowed"
    return _judged(metric, detail, test.log_e("better"), within, spec, len(new))


def _price(
    metric: str, limit: float, spec: GuardrailSpec, old: Array, new: Array
) -> GuardrailResult:
    if len(new) < spec.min_requests or len(old) < spec.min_requests:
        return _few(metric, spec, len(old), len(new))
    # Prices have no bound, and a bet needs one: the dearest percent counts as its cheapest.
    most = float(np.quantile(np.concatenate((old, new)), 0.99)) or 1.0
    fair_old = np.minimum(old, most) / most
    fair_new = np.minimum(new, most) / most / (1 + limit)
    result = _means(metric, 0.0, spec, fair_old, fair_new, "")
    detail = f"{new.mean():.3g} USD a request against {old.mean():.3g}, {limit:+.0%} allowed"
    return replace(result, detail=detail)


def _tail(
    metric: str, limit: float, spec: GuardrailSpec, old: Array, new: Array
) -> GuardrailResult:
    if len(new) < spec.min_requests or len(old) < spec.min_requests:
        return _few(metric, spec, len(old), len(new))
    bound = float(np.quantile(old, 1 - TAIL)) * (1 + limit)
    slow = (new > bound).astype(float)
    test = PairTest(margin=TAIL + SLACK, width=0.5)
    test.extend(slow.tolist())
    within = bool(slow.mean() <= TAIL + SLACK)
    p95 = float(np.quantile(new, 1 - TAIL))
    detail = (
        f"95th percentile {p95:.0f} ms against {bound / (1 + limit):.0f} ms, {limit:+.0%} allowed"
    )
    return _judged(metric, detail, test.log_e("better"), within, spec, len(new))


def _judged(
    metric: str, detail: str, log_e: float, within: bool, spec: GuardrailSpec, requests: int
) -> GuardrailResult:
    result: GuardrailStatus = "passed" if within else "inconclusive"
    if log_e >= -math.log(spec.alpha):
        result = "failed"
    return GuardrailResult(metric, result, detail, requests)


def _few(metric: str, spec: GuardrailSpec, old: int, new: int) -> GuardrailResult:
    least = spec.min_requests
    if not old and not new:
        return GuardrailResult(metric, "error", "nothing was reported", 0)
    detail = f"{new} requests of the candidate and {old} of the active model, {least} are needed"
    return GuardrailResult(metric, "inconclusive", detail, new)


def matched(old: Array, new: Array) -> Array:
    """Differences of values that met by their order alone, as ``Matching`` pairs them."""
    ratio = min(max(len(old) // max(len(new), 1), 1), 10)
    return differences(new, old, 1, ratio)
