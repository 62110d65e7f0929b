"""The report of an A/B test: what was seen of each model, what is proven, and a sentence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from hotswap_ray.core.proof.betting import Verdict

ABTestReason = Literal[
    "running", "better", "equivalent", "not_better", "worse", "harm", "max_requests", "max_s"
]


@dataclass(frozen=True, slots=True)
class ArmSummary:
    """What was seen of one model; ``None`` where nothing is known.

    Attributes:
        model: Its name.
        requests: Requests it got in the test.
        values: Of them, those with a value of the metric.
        mean: Of these values, in [0, 1].
        success_rate: In [0, 1].
        latency_p50_ms: Of successes, first byte in to last byte out.
        latency_p95_ms: The same, 95th percentile.
        cost_usd: Sum of the known prices.
        mean_cost_usd: Mean of the known prices.
        share: Of the requests so far, in [0, 1].
    """

    model: str
    requests: int
    values: int
    mean: float | None
    success_rate: float | None
    latency_p50_ms: float | None
    latency_p95_ms: float | None
    cost_usd: float | None
    mean_cost_usd: float | None
    share: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """One variant against the control.

    Attributes:
        model: The variant.
        differences: Differences of values that met, of those that may prove "better".
        effect: Mean less that of the control; ``None`` while one of them has no value.
        low: Lower end of its anytime-valid interval.
        high: Upper end.
        log_e_better: Logarithm of the evidence that it is better by more than the margin.
        log_e_worse: The same for worse.
        e_better: The evidence itself, at most 1e300.
        e_worse: The same for worse.
        bar: Evidence that proves something.
        verdict: What is proven.
        more: Further values of it until "better" if all goes on like this; ``None`` if never.
        failed: Guardrails that failed, with their numbers.
        dropped: Why it is out; ``None`` while it takes part.
    """

    model: str
    differences: int
    effect: float | None
    low: float
    high: float
    log_e_better: float
    log_e_worse: float
    e_better: float
    e_worse: float
    bar: float
    verdict: Verdict
    more: int | None
    failed: tuple[str, ...]
    dropped: str | None


@dataclass(frozen=True, slots=True)
class ABTestReport:
    """State of an A/B test.

    Attributes:
        state: ``running`` or ``ended``.
        reason: Why it ended, or ``running``.
        winner: Model to take; ``None``: nothing speaks for a change.
        sentence: All of it for a person.
        control: Active model.
        metric: What is compared.
        missing: Models with requests but without a single value of the metric.
        requests: Of all models.
        spent_s: Time since the test began.
        alpha: Probability of a wrong proof per direction.
        margin: Difference that is not worth a change.
        equivalence: Smaller differences count as none.
        arms: The control first.
        comparisons: One per variant, in the order of the spec.
        extra_cost_usd: What the variants' requests cost more than at the control's mean price;
            ``None`` if a price is not known.
        quality_given_up: Sum over requests of the best model's mean less that of the model
            which answered: the regret, in whole answers, by what is known now.
    """

    state: Literal["running", "ended"]
    reason: ABTestReason
    winner: str | None
    sentence: str
    control: str
    metric: str
    missing: tuple[str, ...]
    requests: int
    spent_s: float
    alpha: float
    margin: float
    equivalence: float
    arms: tuple[ArmSummary, ...]
    comparisons: tuple[Comparison, ...]
    extra_cost_usd: float | None
    quality_given_up: float | None

    def to_doc(self) -> dict[str, Any]:
        """Plain JSON values."""
        doc = asdict(self)
        for name in ("missing", "arms", "comparisons"):
            doc[name] = list(doc[name])
        for row in doc["comparisons"]:
            row["failed"] = list(row["failed"])
        return doc


def sentence_of(
    reason: ABTestReason,
    winner: str | None,
    control: str,
    arms: Sequence[ArmSummary],
    comparisons: Sequence[Comparison],
    missing: Sequence[str],
    metric: str,
    least: int,
) -> str:
    """What a report says in words.

    Args:
        reason: Why the test ended, or ``running``.
        winner: Model to take, if any.
        control: Active model.
        arms: What was seen of each model.
        comparisons: One per variant.
        missing: Models without a value of the metric.
        metric: What is compared.
        least: Requests that each model needs before an end.
    """
    total = sum(arm.requests for arm in arms)
    drops = [f"{row.model} was dropped ({row.dropped})" for row in comparisons if row.dropped]
    parts = [f"{_head(reason, winner, control, comparisons)} after {total:,} requests"]
    if drops:
        parts.append("; ".join(drops))
    if missing:
        parts.append(
            f"{metric} is missing: no answer of {_joined(missing)} was judged, so nothing can be "
            "proven of it; give the task checks or feedback, or compare success"
            if metric == "quality"
            else f"{metric} is missing at {_joined(missing)}"
        )
    dropped = {row.model for row in comparisons if row.dropped}
    idle = [arm for arm in arms if arm.requests < least and arm.model not in dropped]
    if idle and reason in ("running", "max_requests", "max_s"):
        counts = _joined([f"{arm.model} has {arm.requests}" for arm in idle])
        parts.append(f"each model needs {least} requests, {counts}")
    return "; ".join(parts) + "."


def _head(
    reason: ABTestReason, winner: str | None, control: str, comparisons: Sequence[Comparison]
) -> str:
    if reason == "better":
        best = next(row for row in comparisons if row.model == winner)
        return (
            f"{winner} is better than {control} by {best.effect:+.3f} "
            f"[{best.low:+.3f}, {best.high:+.3f}] (e-value {best.e_better:.3g})"
        )
    if reason == "equivalent":
        names = _joined([row.model for row in comparisons if row.verdict == "equivalent"])
        cheaper = f"; {winner} is cheaper" if winner else f", so {control} stays"
        return f"{names} and {control} are as good as each other{cheaper},"
    if reason == "running":
        compared = [row for row in comparisons if row.effect is not None and not row.dropped]
        if not compared:
            return "The test is running"
        best = max(compared, key=lambda row: row.log_e_better)
        return (
            f"The test is running, {best.model} at {best.effect:+.3f} against {control} "
            f"[{best.low:+.3f}, {best.high:+.3f}]"
        )
    names = _joined(
        [
            row.model if row.effect is None else f"{row.model} ({row.effect:+.3f})"
            for row in comparisons
        ]
    )
    return {
        "not_better": f"{names}: not better than {control}, which stays,",
        "worse": f"{names}: proven worse than {control}, which stays,",
        "harm": f"{names}: stopped for harm, {control} stays,",
        "max_requests": f"Undecided, {control} stays: the most requests were reached",
        "max_s": f"Undecided, {control} stays: the time was up",
    }[reason]


def _joined(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
