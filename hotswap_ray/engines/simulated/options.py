"""What the simulated engine may be told to do."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

Ability = Literal[
    "chat",
    "completions",
    "context",
    "json",
    "logprobs",
    "n",
    "reasoning",
    "stop",
    "stream_usage",
    "tools",
    "vision",
]


class SimulatedOptions(BaseModel):
    """Options of the simulated engine; all delays are 0 unless stated."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    seed: int = Field(0, description="Makes delays, failures and mistakes repeatable.")
    load_s: float = Field(0, ge=0, le=86_400, description="Time to load.")
    wake_s: float = Field(0, ge=0, le=86_400, description="Time to wake from sleep.")
    ttft_ms: float = Field(0, ge=0, le=3_600_000, description="Time to the first token.")
    token_ms: float = Field(0, ge=0, le=3_600_000, description="Time per further token.")
    jitter: float = Field(0, ge=0, le=1, description="Share by which delays vary, up and down.")
    tokens: int | None = Field(
        None, ge=1, le=100_000, description="Length the answer is repeated to; its own if unset."
    )
    answer: str = Field(
        "simulated answer",
        min_length=1,
        max_length=100_000,
        description="Answer; {model} and {prompt} are filled in.",
    )
    knows: dict[str, str] = Field(
        default_factory=dict, description="Part of a prompt to its right answer; the last wins."
    )
    accuracy: float = Field(1, ge=0, le=1, description="Share of prompts answered rightly.")
    failure_rate: float = Field(0, ge=0, le=1, description="Share of requests that fail.")
    failure_at_token: int = Field(
        0, ge=0, le=100_000, description="Tokens given before a request fails."
    )
    capacity: int = Field(
        0, ge=0, le=100_000, description="Requests worked on at once, others wait; 0 is no limit."
    )
    memory_bytes: int = Field(64 * 2**20, ge=1, le=2**50, description="Memory reported.")
    can_sleep: bool = Field(True, description="Whether sleep and wake are supported.")
    lacks: tuple[Ability, ...] = Field(
        (), description="Capabilities it does not have, whatever the model declares."
    )
    fail_on_load: Literal["none", "raise", "hang", "exit"] = Field(
        "none", description="Loading raises, never ends, or kills the process."
    )
