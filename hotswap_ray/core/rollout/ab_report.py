"""What an A/B test has found so far: a pure function of its requests, to be looked at any time.

Each variant is compared with the control by betting tests (``core/rollout/ab_pairs.py``). With K
variants each proof needs ``E >= K / alpha`` (Bonferroni), and intervals are at level
``1 - alpha / K``. An interval has two ends and pays for both, so it leaves zero a little later than
the one-sided proof comes.

Because the report is computed from the requests alone, a restarted controller finds the same.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hotswap_ray.core.rollout.ab_pairs import Pair, measured, pair_of
from hotswap_ray.core.rollout.ab_result import (
    ABTestReason,
    ABTestReport,
    ArmSummary,
    Comparison,
    sentence_of,
)
from hotswap_ray.core.rollout.ab_weights import weights_of
from hotswap_ray.core.rollout.guardrails import Seen, check, failures
from hotswap_ray.core.spec.ab_test import ABTestSpec

__all__ = ["ABTestReport", "ABTestSpec", "history", "report", "weights_of"]

Array = NDArray[np.float64]
CHEAPER = 0.9
"""An equivalent model wins by its price if it costs at most this share of the other's."""


def report(
    spec: ABTestSpec,
    control: str,
    seen: Mapping[str, Seen],
    dropped: Mapping[str, str] | None = None,
    spent_s: float = 0.0,
) -> ABTestReport:
    """What is known now, and whether the test is over.

    It ends when a variant is proven better (the best of them wins), when every variant is
    settled (out, proven worse, not better or equivalent), or at ``max_requests`` or ``max_s``,
    undecided. Except for harm no end comes before every model had ``min_requests``. "Not better"
    settles a variant unless "equivalent" matters, for the variant is clearly cheaper and would
    win by it, or is near: its other side is half proven.

    Args:
        spec: The test.
        control: Active model.
        seen: Requests by model; a model that is missing had none.
        dropped: Variants that are out already, with the reason.
        spent_s: Time since the test began, without pauses.

    Example:
        >>> none = np.full(200, np.nan)
        >>> def of(quality):
        ...     return Seen(np.ones(200), none, none, np.resize(quality, 200), none, none, none)
        >>> seen = {"old": of([1.0, 0.0]), "new": of([1.0, 1.0, 1.0, 0.9])}
        >>> result = report(ABTestSpec(variants=("new",)), "old", seen)
        >>> result.state, result.reason, result.winner
        ('ended', 'better', 'new')
    """
    arms = _arms(control, spec, seen)
    pairs, failed = _compared(spec, control, seen)
    excluded = {**_harm(control, pairs, failed), **(dropped or {})}
    comparisons = tuple(
        _comparison(pair, name, failed[name], excluded.get(name)) for name, pair in pairs.items()
    )
    reason, winner = _end(spec, control, arms, pairs, excluded, spent_s)
    missing = tuple(arm.model for arm in arms if arm.requests and not arm.values)
    sentence = sentence_of(
        reason, winner, control, arms, comparisons, missing, spec.metric, spec.min_requests
    )
    return ABTestReport(
        state="running" if reason == "running" else "ended",
        reason=reason,
        winner=winner,
        sentence=sentence,
        control=control,
        metric=spec.metric,
        missing=missing,
        requests=sum(arm.requests for arm in arms),
        spent_s=spent_s,
        alpha=spec.alpha,
        margin=spec.margin,
        equivalence=spec.equivalence,
        arms=arms,
        comparisons=comparisons,
        extra_cost_usd=_extra_cost(arms, control, seen),
        quality_given_up=_given_up(arms),
    )


def history(
    spec: ABTestSpec, control: str, seen: Mapping[str, Seen], points: int = 40
) -> dict[str, list[dict[str, Any]]]:
    """How effect and interval ran, per variant, as they were seen at that time.

    Args:
        spec: The test.
        control: Active model.
        seen: Requests by model, with their arrivals.
        points: Most points, evenly spaced in requests of all models.

    Returns:
        Per variant points ``{requests, effect, low, high}``; none before both arms have a value.
    """
    models = [model for model in (control, *spec.variants) if model in seen]
    arrivals = np.sort(np.concatenate([seen[model].at_s for model in models] or [np.empty(0)]))
    arrivals = arrivals[~np.isnan(arrivals)]
    counts = np.unique(np.linspace(1, len(arrivals), points).round()).astype(int)
    curves: dict[str, list[dict[str, Any]]] = {name: [] for name in spec.variants}
    for count in counts[counts >= 1].tolist() if len(arrivals) else []:
        until = partial(np.greater_equal, arrivals[count - 1])
        requests = {model: seen[model].where(until) for model in models}
        for name in spec.variants:
            pair = pair_of(spec, control, requests, name)
            if pair.effect is not None:
                low, high = pair.interval
                curves[name].append(
                    {"requests": count, "effect": pair.effect, "low": low, "high": high}
                )
    return curves


def _compared(
    spec: ABTestSpec, control: str, seen: Mapping[str, Seen]
) -> tuple[dict[str, Pair], dict[str, tuple[str, ...]]]:
    """Each variant against the control, and the guardrails that it fails."""
    pairs = {name: pair_of(spec, control, seen, name) for name in spec.variants}
    return pairs, {name: _failed(spec, control, seen, name) for name in spec.variants}


def _harm(
    control: str, pairs: Mapping[str, Pair], failed: Mapping[str, tuple[str, ...]]
) -> dict[str, str]:
    reasons = {}
    for name, pair in pairs.items():
        if pair.verdict == "worse":
            reasons[name] = f"proven worse than {control}, by {-(pair.effect or 0.0):.3f}"
        elif failed[name]:
            reasons[name] = "guardrail failed: " + "; ".join(failed[name])
    return reasons


def _failed(spec: ABTestSpec, control: str, seen: Mapping[str, Seen], name: str) -> tuple[str, ...]:
    if control not in seen or name not in seen:
        return ()
    alpha = spec.guardrails.alpha / len(spec.variants)
    limits = spec.guardrails.model_copy(update={"alpha": alpha})
    return tuple(failures(check(limits, seen[control], seen[name])))


def _arms(control: str, spec: ABTestSpec, seen: Mapping[str, Seen]) -> tuple[ArmSummary, ...]:
    models = (control, *spec.variants)
    total = sum(len(seen[model].success) for model in models if model in seen)
    return tuple(_arm(spec, seen, model, total) for model in models)


def _arm(spec: ABTestSpec, seen: Mapping[str, Seen], model: str, total: int) -> ArmSummary:
    values = measured(spec, seen, model)
    record = seen.get(model)
    times = np.empty(0) if record is None else record.of_successes("latency_ms")
    costs = np.empty(0) if record is None else record.known("cost_usd")
    requests = 0 if record is None else len(record.success)
    return ArmSummary(
        model=model,
        requests=requests,
        values=len(values),
        mean=_mean(values),
        success_rate=None if record is None else _mean(record.known("success")),
        latency_p50_ms=float(np.quantile(times, 0.5)) if len(times) else None,
        latency_p95_ms=float(np.quantile(times, 0.95)) if len(times) else None,
        cost_usd=float(costs.sum()) if len(costs) else None,
        mean_cost_usd=_mean(costs),
        share=requests / total if total else 0.0,
    )


def _mean(values: Array) -> float | None:
    return float(values.mean()) if len(values) else None


def _comparison(pair: Pair, name: str, failed: tuple[str, ...], dropped: str | None) -> Comparison:
    low, high = pair.interval
    better, worse = pair.log_e("better"), pair.log_e("worse")
    return Comparison(
        model=name,
        differences=pair.up.count,
        effect=pair.effect,
        low=low,
        high=high,
        log_e_better=better,
        log_e_worse=worse,
        e_better=math.exp(min(better, 690)),
        e_worse=math.exp(min(worse, 690)),
        bar=math.exp(pair.bar),
        verdict=pair.verdict,
        more=pair.more,
        failed=failed,
        dropped=dropped,
    )


def _end(
    spec: ABTestSpec,
    control: str,
    arms: tuple[ArmSummary, ...],
    pairs: Mapping[str, Pair],
    excluded: Mapping[str, str],
    spent_s: float,
) -> tuple[ABTestReason, str | None]:
    """Why the test is over, if it is, and which model to take."""
    live = {name: pair for name, pair in pairs.items() if name not in excluded}
    if not live:
        worse = all(pair.verdict == "worse" for pair in pairs.values())
        return ("worse" if worse else "harm"), None
    requests = {arm.model: arm.requests for arm in arms}
    if min(requests[name] for name in (control, *live)) >= spec.min_requests:
        better = [name for name, pair in live.items() if pair.verdict == "better"]
        if better:
            return "better", max(better, key=lambda name: live[name].effect or 0.0)
        prices = {arm.model: arm.mean_cost_usd for arm in arms}
        if all(
            pair.settled
            and not (pair.verdict == "not_better" and _cheaper(prices[name], prices[control]))
            for name, pair in live.items()
        ):
            ties = [name for name, pair in live.items() if pair.verdict == "equivalent"]
            return ("equivalent", _cheapest(control, ties, arms)) if ties else ("not_better", None)
    if sum(requests.values()) >= spec.max_requests:
        return "max_requests", None
    return ("max_s" if spent_s >= spec.max_s else "running"), None


def _cheaper(price: float | None, other: float | None) -> bool:
    return price is not None and other is not None and price <= CHEAPER * other


def _cheapest(control: str, ties: list[str], arms: tuple[ArmSummary, ...]) -> str | None:
    """The model that is clearly cheaper than each of the others; the control may be it."""
    prices = {arm.model: arm.mean_cost_usd for arm in arms if arm.model in (control, *ties)}
    priced = {model: price for model, price in prices.items() if price is not None}
    if len(priced) < len(prices):
        return None
    best = min(priced, key=lambda model: priced[model])
    if best != control:
        return best if priced[best] <= CHEAPER * priced[control] else None
    clear = all(priced[best] <= CHEAPER * price for model, price in priced.items() if model != best)
    return best if clear and priced[best] > 0 else None


def _extra_cost(
    arms: tuple[ArmSummary, ...], control: str, seen: Mapping[str, Seen]
) -> float | None:
    control_price = next(arm.mean_cost_usd for arm in arms if arm.model == control)
    variants = [arm for arm in arms if arm.model != control and arm.requests]
    if control_price is None or not variants or any(arm.cost_usd is None for arm in variants):
        return None
    priced = {arm.model: len(seen[arm.model].known("cost_usd")) for arm in variants}
    return sum((arm.cost_usd or 0.0) - control_price * priced[arm.model] for arm in variants)


def _given_up(arms: tuple[ArmSummary, ...]) -> float | None:
    means = [(arm.requests, arm.mean) for arm in arms if arm.mean is not None]
    best = max((mean for _, mean in means), default=None)
    return None if best is None else sum(number * (best - mean) for number, mean in means)
