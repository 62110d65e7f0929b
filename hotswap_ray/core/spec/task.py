"""What an operator states about models and tasks: frozen, bounded, refused when unknown.

These values are the leaves of the YAML file (``config.py`` composes them) and also what
the store keeps and what travels to a replica, so there is one definition of a model.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import (
    Field,
    ValidationError,
    ValidatorFunctionWrapHandler,
    field_validator,
    model_validator,
)

from hotswap_ray.core.names import Name, Strict
from hotswap_ray.core.spec.autoswap import AutoswapSpec
from hotswap_ray.core.spec.golden import Check, GoldenPrompt
from hotswap_ray.core.spec.price import Price


class Autoscale(Strict):
    """Replica count follows load."""

    min_replicas: int = Field(1, ge=0, le=1000, description="Fewest replicas.")
    max_replicas: int = Field(2, ge=1, le=1000, description="Most replicas.")
    target_ongoing_requests: float = Field(
        4, gt=0, le=100_000, description="Requests in flight per replica to aim for."
    )

    @model_validator(mode="after")
    def _ordered(self) -> Autoscale:
        if self.min_replicas > self.max_replicas:
            raise ValueError(
                f"min_replicas {self.min_replicas} exceeds max_replicas {self.max_replicas}"
            )
        return self


class Resources(Strict):
    """What Ray reserves for one replica of a model, and how many replicas there are."""

    num_cpus: float = Field(1, ge=0, le=1024, description="CPUs reserved per replica.")
    num_gpus: float = Field(
        0, ge=0, le=64, description="GPUs reserved per replica (per worker when sharded)."
    )
    accelerator_type: str | None = Field(
        None, max_length=64, description="Ray accelerator type, for example L4 or H100."
    )
    tensor_parallel: int = Field(1, ge=1, le=64, description="GPUs one replica is sharded over.")
    memory_bytes: int = Field(
        0, ge=0, le=2**50, description="Memory reserved per replica; 0 reserves none."
    )
    replicas: int = Field(1, ge=1, le=1000, description="Fixed replica count.")
    autoscale: Autoscale | None = Field(None, description="Autoscaling; replaces `replicas`.")

    @property
    def min_replicas(self) -> int:
        """Replicas that must run before the model counts as loaded."""
        return max(1, self.autoscale.min_replicas) if self.autoscale else self.replicas

    @property
    def max_replicas(self) -> int:
        """Most replicas that may run at once."""
        return self.autoscale.max_replicas if self.autoscale else self.replicas


class ModelSpec(Strict):
    """One model: its weights, the engine that serves it and what that may use."""

    id: Name = Field(description="Name in the API, the CLI and metrics.")
    engine: str = Field(
        min_length=1, max_length=128, description="llama_cpp, vllm, openai, or an entry point."
    )
    source: str | None = Field(
        None, max_length=4096, description="Weights: a path, a hub id, or the server's model name."
    )
    options: dict[str, Any] = Field(
        default_factory=dict,
        repr=False,  # a remote engine's key may be among them
        description="Options of the engine; each engine checks its own.",
    )
    capabilities: tuple[str, ...] = Field(
        ("chat", "completions"), description="What the model can do, for example tools, json."
    )
    context_tokens: int = Field(
        2048, ge=16, le=100_000_000, description="Longest prompt plus answer."
    )
    max_ongoing_requests: int = Field(
        4, ge=1, le=100_000, description="Requests one replica works on at once."
    )
    max_queued_requests: int = Field(
        64, ge=0, le=1_000_000, description="Requests that may wait; beyond it clients get 429."
    )
    resources: Resources = Field(default_factory=lambda: Resources())
    load_timeout_s: float = Field(
        300, ge=1, le=86_400, description="Time to become ready, scheduling included."
    )
    replica_affinity: bool = Field(
        False,
        description="Whether a conversation keeps to one replica, which has its prompt in cache.",
    )
    resident: bool = Field(
        False, description="Load at start and never unload because a swap retired it."
    )
    usd_per_million_tokens_in: float = Field(0, ge=0, le=1e6, description="Price of input tokens.")
    usd_per_million_tokens_out: float = Field(
        0, ge=0, le=1e6, description="Price of output tokens."
    )

    golden_params: dict[str, Any] = Field(
        default_factory=dict,
        description="What golden prompts and probes send this model otherwise, for example "
        "`{temperature: 1}`; null leaves a parameter out.",
    )
    thinking_tokens: int = Field(
        1024,
        ge=0,
        le=1_000_000,
        description="Room for thinking in golden prompts and probes, on top of the answer's, if "
        "the model has the capability reasoning; at most half its context.",
    )

    @property
    def price(self) -> Price:
        """What its tokens cost."""
        return Price(self.usd_per_million_tokens_in, self.usd_per_million_tokens_out)


class Requirements(Strict):
    """Hard limits: a model that does not meet them never serves the task."""

    capabilities: tuple[str, ...] = Field((), description="Capabilities a model must have.")
    context_tokens: int = Field(0, ge=0, le=100_000_000, description="Smallest context length.")
    max_latency_ms: float | None = Field(
        None, gt=0, le=86_400_000, description="Longest acceptable answer time (golden prompts)."
    )
    max_memory_bytes: int | None = Field(
        None, gt=0, le=2**50, description="Most memory one replica may use."
    )
    accelerator: Literal["any", "cpu", "gpu"] = Field("any", description="Hardware to run on.")


class Preferences(Strict):
    """Relative weights of what is good; they need not sum to 1."""

    quality: float = Field(1, ge=0, le=1000, description="Weight of quality.")
    latency: float = Field(0, ge=0, le=1000, description="Weight of low latency.")
    cost: float = Field(0, ge=0, le=1000, description="Weight of low cost.")
    memory: float = Field(0, ge=0, le=1000, description="Weight of low memory.")
    energy: float = Field(
        0, ge=0, le=0, description="Weight of low energy; 0 until something measures it."
    )

    @field_validator("energy", mode="wrap")
    @classmethod
    def _unmeasured(cls, value: Any, validate: ValidatorFunctionWrapHandler) -> float:
        """A weight on what nobody measures only makes every other difference smaller."""
        try:
            return float(validate(value))
        except ValidationError:
            raise ValueError("nothing measures energy yet; leave it 0") from None


class TaskSpec(Strict):
    """A class of requests that is learned about and routed as one."""

    id: Name = Field(description="Name in headers, the CLI and metrics.")
    model: Name = Field(description="Model that serves first; later swaps are remembered.")
    fallback: Name | None = Field(
        None, description="Model tried once when the active one fails before its first byte."
    )
    requirements: Requirements = Field(default_factory=lambda: Requirements())
    preferences: Preferences = Field(default_factory=lambda: Preferences())
    quality_target: float = Field(0.8, ge=0, le=1, description="Quality to reach.")
    golden: tuple[GoldenPrompt, ...] = Field(
        (), description="Prompts a candidate must answer before it gets traffic."
    )
    golden_min_pass: float = Field(
        0.5, ge=0, le=1, description="Share of golden prompts that must pass."
    )
    golden_file: str | None = Field(
        None, max_length=4096, description="More golden prompts for `bench`: YAML or JSON lines."
    )
    checks: tuple[Check, ...] = Field(
        (), description="Checks that give each answer of live traffic its quality."
    )
    autoswap: dict[str, Any] = Field(
        default_factory=dict,
        description="What this task has otherwise than the section `autoswap` says.",
    )

    @field_validator("autoswap")
    @classmethod
    def _overrides(cls, stated: dict[str, Any]) -> dict[str, Any]:
        try:
            AutoswapSpec.model_validate(stated)
        except ValidationError as error:
            problems = error.errors(include_url=False, include_input=False)
            messages = [f"{'.'.join(map(str, e['loc'])) or 'it'}: {e['msg']}" for e in problems]
            raise ValueError("; ".join(messages)) from None
        return stated

    @model_validator(mode="after")
    def _judged(self) -> TaskSpec:
        if self.autoswap.get("shadow", 0) > 0 and not self.checks:
            raise ValueError(
                "autoswap.shadow compares two answers to one prompt, so the task needs checks"
            )
        return self

    def autoswap_with(self, defaults: AutoswapSpec) -> AutoswapSpec:
        """How this task gets its model by itself.

        Args:
            defaults: The section ``autoswap``.

        Raises:
            ValidationError: The two do not fit together.
        """
        return AutoswapSpec.model_validate(
            {**defaults.model_dump(exclude_unset=True), **self.autoswap}
        )
