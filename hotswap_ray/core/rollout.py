"""A rollout's plan, as an operator states it, and what each look at its step leads to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field, model_validator

from hotswap_ray.core.guardrails import Checked, GuardrailSpec, failures, verdict
from hotswap_ray.core.strict import Strict

Move = Literal["out", "on", "wait", "doubt"]


class CanaryStep(Strict):
    """One share of the conversations, and what has to be seen before the next."""

    weight: float = Field(gt=0, le=1, description="Share of the conversations, in (0, 1].")
    min_requests: int = Field(
        20, ge=1, le=10**7, description="Fewest requests of the candidate in this step."
    )
    min_s: float = Field(0, ge=0, le=604_800, description="Least time of this step.")


class CanarySpec(Strict):
    """How a candidate proves itself on a growing share of a task's conversations.

    Where both models fail at least half of their latest ``guardrails.min_requests`` requests, no
    comparison says anything: the active model is kept, whatever the candidate does, and the
    canary pauses for a person, or gives the candidate up if ``on_inconclusive`` is ``abort``.
    """

    steps: tuple[CanaryStep, ...] = Field(
        (), description="Shares that rise; none switches at once."
    )
    guardrails: GuardrailSpec = Field(
        default_factory=lambda: GuardrailSpec(),
        description="What the candidate may cost, compared over the same time.",
    )
    settle_s: float = Field(
        2, ge=0, le=3600, description="Time to get to know conversations before the first step."
    )
    check_s: float = Field(1, ge=0.05, le=3600, description="Time between two checks.")
    max_step_s: float = Field(3600, ge=1, le=604_800, description="Longest a step stays undecided.")
    on_inconclusive: Literal["pause", "abort"] = Field(
        "pause",
        description="What follows, also when both models fail: wait for a person, or give it up.",
    )
    dry_run: bool = Field(False, description="Guardrails only report.")

    @model_validator(mode="after")
    def _rising(self) -> CanarySpec:
        weights = [step.weight for step in self.steps]
        if weights != sorted(set(weights)):
            raise ValueError(f"the weights of the steps must rise; they are {weights}")
        return self


def plan_of(text: str, defaults: CanarySpec) -> CanarySpec:
    """A plan from percentages, everything else as the configuration has it.

    Args:
        text: For example ``5,25,50``.
        defaults: The section ``swap.canary``.

    Raises:
        ValueError: No percentages, or they do not rise.

    Example:
        >>> [step.weight for step in plan_of("5,25", CanarySpec()).steps]
        [0.05, 0.25]
    """
    usual = defaults.steps[0] if defaults.steps else CanaryStep(weight=1)
    try:
        weights = [float(part) / 100 for part in text.split(",")]
    except ValueError:
        raise ValueError(f"{text!r}: give percentages, for example 5,25,50") from None
    steps = [{**usual.model_dump(), "weight": weight} for weight in weights]
    return CanarySpec.model_validate({**defaults.model_dump(), "steps": steps})


def next_move(
    plan: CanarySpec,
    step: CanaryStep,
    checks: Sequence[Checked],
    requests: int,
    spent_s: float,
    alarm: str = "",
) -> tuple[Move, str]:
    """What follows from a look at a step.

    Args:
        plan: The plan.
        step: The step that the candidate is in.
        checks: What the guardrails found since the canary began.
        requests: The candidate's in this step.
        spent_s: Time in this step.
        alarm: Why a comparison says nothing, see ``guardrails.both_fail``; empty if it does.

    Returns:
        ``out``: the candidate goes. ``on``: the next step. ``wait``: look again. ``doubt``: a
        person is asked, or the candidate given up, as ``plan.on_inconclusive`` has it. With it
        the reason, of ``out`` and ``doubt``.

    Example:
        >>> plan, step = CanarySpec(), CanaryStep(weight=0.1)
        >>> passed = [Checked("quality", "passed", "")]
        >>> next_move(plan, step, passed, requests=19, spent_s=60)
        ('wait', '')
        >>> next_move(plan, step, passed, requests=20, spent_s=60)
        ('on', '')
    """
    result = verdict(checks)
    if result == "failed" and not plan.dry_run:
        return "out", "; ".join(failures(checks))
    if alarm:
        return "doubt", alarm
    passed = result == "passed" or (plan.dry_run and result != "error")
    if passed and requests >= step.min_requests and spent_s >= step.min_s:
        return "on", ""
    if spent_s <= plan.max_step_s:
        return "wait", ""
    text = "; ".join(f"{one.metric} {one.result}: {one.detail}" for one in checks)
    return "doubt", f"inconclusive after {spent_s:.0f} s with {requests} requests: {text}"
