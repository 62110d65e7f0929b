"""The section ``swap`` of the YAML file: how one model replaces another."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from hotswap_ray.core.names import Strict
from hotswap_ray.core.spec.rollout import CanarySpec, GuardrailSpec


class SwapConfig(Strict):
    """How one model replaces another."""

    strategy: Literal["auto", "overlap", "sleep", "drain_first"] = Field(
        "auto", description="How to make room; auto chooses from measured capacity."
    )
    compatibility: Literal["strict", "warn"] = Field(
        "strict", description="Whether a gap refuses the swap or is only recorded."
    )
    bake_s: float = Field(
        300, ge=0, le=604_800, description="Time the old model stays warm after the switch."
    )
    bake_guardrails: GuardrailSpec | None = Field(
        # A bigger model is slower by choice, and an auto-swap has weighed that already.
        default_factory=lambda: GuardrailSpec(latency_p95=None, ttft_p95=None),
        description="What takes the new model back while the old one is warm; null for nothing.",
    )
    bake_check_s: float = Field(
        5, ge=0.05, le=3600, description="Time between two checks of the new model."
    )
    keep_warm: int = Field(
        0,
        ge=0,
        le=10,
        description="Models that served a task last and stay loaded, to go back to at once.",
    )
    drain_timeout_s: float = Field(
        600,
        ge=0.1,
        le=86_400,
        description="Longest wait for the old model's last requests.",
    )
    load_wait_s: float = Field(
        60, ge=0, le=86_400, description="Longest wait for free resources before refusing."
    )
    validation_timeout_s: float = Field(
        60, ge=0.1, le=3600, description="Time to answer all golden prompts."
    )
    probe: bool = Field(
        True, description="Whether candidates are probed: required and declared capabilities."
    )
    probe_timeout_s: float = Field(
        30, ge=0.1, le=3600, description="Time of all probes; what is not done is not measured."
    )
    ack_timeout_s: float = Field(
        10, ge=0.1, le=300, description="Longest wait for the ingress to confirm a route table."
    )
    canary: CanarySpec = Field(
        default_factory=lambda: CanarySpec(),
        description="How a candidate proves itself on a share of the traffic.",
    )
    concurrent_loads: int = Field(1, ge=1, le=64, description="Models loaded at the same time.")
    load_nice: int = Field(
        10, ge=0, le=19, description="Niceness of a process while it loads; 0 is full priority."
    )
