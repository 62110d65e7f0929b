"""An A/B test as an operator states it: which models, which shares, what proves what."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from hotswap_ray.core.names import Strict
from hotswap_ray.core.spec.rollout import GuardrailSpec


class ABTestSpec(Strict):
    """A comparison of some models with the active one, the control, on a task's traffic."""

    variants: tuple[str, ...] = Field(
        min_length=1, max_length=8, description="Models compared with the active one."
    )
    weights: tuple[float, ...] = Field(
        (),
        description="Share of the conversations per variant, each in (0, 1); the control gets "
        "the rest. Empty: equal shares.",
    )
    adaptive: bool = Field(
        False, description="Whether shares follow the results, from `min_requests` on."
    )
    min_weight: float = Field(
        0.05, gt=0, le=0.5, description="Least share of each model while adaptive, in (0, 0.5]."
    )
    adapt_s: float = Field(
        30, ge=0.05, le=86_400, description="Least time between two changes of the shares."
    )
    metric: Literal["quality", "success"] = Field(
        "quality", description="What is compared: the judged quality, or whether it succeeded."
    )
    margin: float = Field(
        0.01, ge=0, le=0.5, description="Difference that is not worth a change, in [0, 0.5]."
    )
    equivalence: float = Field(
        0.03, gt=0, le=0.5, description="Smaller differences count as none; above `margin`."
    )
    alpha: float = Field(
        0.05,
        gt=0,
        le=0.5,
        description="Probability of a wrong proof per direction over the whole test.",
    )
    min_requests: int = Field(
        20, ge=1, le=10**6, description="Fewest requests of each model before any end but harm."
    )
    max_requests: int = Field(
        20_000, ge=2, le=50_000, description="Requests of all models that end the test undecided."
    )
    max_s: float = Field(
        86_400, ge=1, le=2_592_000, description="Time after which the test ends undecided."
    )
    guardrails: GuardrailSpec = Field(
        default_factory=lambda: GuardrailSpec(),
        description="What a variant may cost; one that fails against the control is dropped.",
    )
    check_s: float = Field(1, ge=0.05, le=3600, description="Time between two looks.")
    settle_s: float = Field(
        2, ge=0, le=3600, description="Time to get to know conversations before the first split."
    )
    on_end: Literal["report", "promote"] = Field(
        "report", description="What follows: only the report, or a swap to the winner."
    )

    @model_validator(mode="after")
    def _consistent(self) -> ABTestSpec:
        names, shares = self.variants, self.weights
        if len(set(names)) < len(names):
            raise ValueError(f"variants must differ; they are {', '.join(names)}")
        if shares and len(shares) != len(names):
            raise ValueError(
                f"weights has {len(shares)} shares for {len(names)} variants: give one for each "
                "variant, or none for equal shares; the control gets the rest"
            )
        if any(not 0 < share < 1 for share in shares):
            raise ValueError(f"each weight must be in (0, 1); they are {list(shares)}")
        if shares and sum(shares) > 1 - 1e-9:
            raise ValueError(
                f"the weights sum to {sum(shares):g}: they must stay below 1, for the control "
                "gets the rest"
            )
        if self.equivalence <= self.margin:
            raise ValueError(
                f"equivalence {self.equivalence:g} must be above margin {self.margin:g}"
            )
        if self.adaptive and self.min_weight * (len(names) + 1) >= 1:
            raise ValueError(
                f"min_weight {self.min_weight:g} times {len(names) + 1} models leaves nothing to "
                f"adapt: it must be below {1 / (len(names) + 1):.3g}"
            )
        return self

    @property
    def shares(self) -> dict[str, float]:
        """Share of each variant as stated; equal ones count the control.

        Example:
            >>> ABTestSpec(variants=("b", "c"), weights=(0.2, 0.1)).shares
            {'b': 0.2, 'c': 0.1}
            >>> ABTestSpec(variants=("b", "c", "d")).shares
            {'b': 0.25, 'c': 0.25, 'd': 0.25}
        """
        number = len(self.variants)
        return dict(zip(self.variants, self.weights or (1 / (number + 1),) * number, strict=True))
