"""A rollout's plan, as an operator states it: steps, and what a candidate may cost."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from hotswap_ray.core.names import Strict

Metric = Literal[
    "error_rate", "refusal_rate", "latency_p95", "ttft_p95", "quality", "cost", "format_validity"
]


class GuardrailSpec(Strict):
    """What a candidate may cost in a rollout; a limit of null switches its guardrail off.

    A metric that nobody reports (no answer is judged, streamed or priced) is not looked at, unless
    it is required.
    """

    error_rate: float | None = Field(
        0.02, ge=0, le=0.4, description="Failures more than the active model has, in [0, 1]."
    )
    refusal_rate: float | None = Field(
        0.02,
        ge=0,
        le=0.4,
        description="Requests it refuses with 4xx, and the active model then takes, in [0, 1].",
    )
    latency_p95: float | None = Field(
        0.25, ge=0, le=100, description="Share by which the 95th percentile may be slower."
    )
    ttft_p95: float | None = Field(
        0.25, ge=0, le=100, description="The same of the time to the first token."
    )
    quality: float | None = Field(
        0.02, ge=0, le=0.4, description="Quality below that of the active model, in [0, 1]."
    )
    cost: float | None = Field(
        None, ge=0, le=100, description="Share by which the mean price of a request may be higher."
    )
    format_validity: float | None = Field(
        0.02, ge=0, le=0.4, description="Answers of a wrong form more than the active model has."
    )
    required: tuple[Metric, ...] = Field(
        (), description="Metrics that have to be reported: without them no candidate passes."
    )
    min_requests: int = Field(
        20, ge=1, le=10**6, description="Fewest requests of the candidate to judge by."
    )
    alpha: float = Field(
        0.05, gt=0, le=0.5, description="Probability of failing a candidate that is good."
    )

    @model_validator(mode="after")
    def _limited(self) -> GuardrailSpec:
        if unlimited := [name for name in self.required if getattr(self, name) is None]:
            raise ValueError(f"{', '.join(unlimited)} is required and has no limit; give it one")
        return self


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
    template = defaults.steps[0] if defaults.steps else CanaryStep(weight=1)
    try:
        weights = [float(part) / 100 for part in text.split(",")]
    except ValueError:
        raise ValueError(f"{text!r}: give percentages, for example 5,25,50") from None
    steps = [{**template.model_dump(), "weight": weight} for weight in weights]
    return CanarySpec.model_validate({**defaults.model_dump(), "steps": steps})
