"""How a task's models are tried and swapped by the arbiter itself, as an operator states it.

The section ``autoswap`` holds the defaults; a task overrides what it names.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from hotswap_ray.core.errors import ConfigError
from hotswap_ray.core.names import Strict
from hotswap_ray.core.policies.selection import find_policy

AutoswapMode = Literal["off", "advise", "on"]


class AutoswapSpec(Strict):
    """How careful the arbiter is, and how it gets the evidence it decides on."""

    mode: AutoswapMode = Field(
        "off", description="off; advise (decides and explains, changes nothing); or on."
    )
    candidates: tuple[str, ...] = Field(
        (), description="Models to consider; none means all that meet the task's limits."
    )
    serve: Literal["active", "policy"] = Field(
        "active",
        description="Who answers: the task's model, or whom the policy picks of those loaded.",
    )
    policy: str = Field("thompson", max_length=128, description="Policy that picks what to try.")
    policy_options: dict[str, Any] = Field(
        default_factory=dict, description="Arguments of the policy."
    )
    explore: float = Field(
        0.05, ge=0, le=0.5, description="Share of requests that a candidate answers, mode on."
    )
    shadow: float = Field(
        0, ge=0, le=1, description="Share that a candidate answers too, unseen; needs checks."
    )
    shadow_at_once: int = Field(
        1, ge=1, le=100, description="Shadowed requests in flight per ingress replica and task."
    )
    alpha: float = Field(
        0.05, gt=0, le=0.5, description="Probability of promoting a model that is not better."
    )
    margin: float = Field(
        0.01, ge=0, le=0.4, description="Difference of utility that is not worth a promotion."
    )
    equivalence: float = Field(
        0.03, gt=0, le=0.5, description="Difference of utility that counts as none."
    )
    min_samples: int = Field(10, ge=1, le=10**6, description="Fewest comparisons to decide on.")
    cooldown_s: float = Field(
        300, ge=0, le=604_800, description="Least time between two swaps of a task."
    )
    success_alarm: float = Field(
        0.8, ge=0, le=1, description="Success rate below which the operator is told."
    )
    residency_s: float = Field(
        3600, ge=1, le=31_536_000, description="Time a promoted model is expected to stay."
    )
    cheaper: float = Field(
        0.1, ge=0, le=1, description="Share by which an equal candidate must be cheaper."
    )
    unload: bool = Field(
        False, description="Unload models that are proven to be of no use to any task."
    )
    look_s: float = Field(2, ge=0.05, le=3600, description="Longest time between two looks.")
    bench_every_s: float = Field(
        0, ge=0, le=31_536_000, description="Time between two runs of the golden sets; 0 is never."
    )
    seed: int | None = Field(
        None, ge=0, le=2**53, description="Seed of what is tried; none is random."
    )

    @model_validator(mode="after")
    def _ordered(self) -> AutoswapSpec:
        if self.margin >= self.equivalence:
            raise ValueError(
                f"margin {self.margin:g} must be below equivalence {self.equivalence:g}"
            )
        return self

    @field_validator("mode", mode="before")
    @classmethod
    def _mode_word(cls, value: Any) -> Any:
        """YAML reads a bare ``on`` or ``off`` as a truth value."""
        return {True: "on", False: "off"}.get(value, value) if isinstance(value, bool) else value

    @field_validator("policy")
    @classmethod
    def _policy_exists(cls, name: str) -> str:
        try:
            find_policy(name)
        except ConfigError as error:
            raise ValueError(error.message) from None
        return name
