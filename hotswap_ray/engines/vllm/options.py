"""What an operator may set for a vLLM model."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

OWNED_ENGINE_KWARGS = {
    "model": "source",
    "served_model_name": "id",
    "max_model_len": "context_tokens",
    "tensor_parallel_size": "resources.tensor_parallel",
    "distributed_executor_backend": "options.accelerator",
}
"""Engine arguments that another field of the model decides, and which."""


class VllmOptions(BaseModel):
    """Options of the vLLM engine."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    engine_kwargs: dict[str, Any] = Field(
        default_factory=dict, description="vLLM's engine arguments, for example dtype: bfloat16."
    )
    accelerator: Literal["auto", "gpu", "cpu"] = Field(
        "auto", description="Hardware; auto is gpu where resources.num_gpus is above 0."
    )
    sleep_level: Literal[1, 2] = Field(
        1, description="1 keeps the weights in CPU memory; 2 drops them and reads them again."
    )
    stream_batching_interval_ms: float = Field(
        20, gt=0, le=1000, description="Streamed tokens are collected for so long."
    )
    placement_strategy: Literal["PACK", "STRICT_PACK", "SPREAD", "STRICT_SPREAD"] = Field(
        "PACK", description="How Ray places the workers of one replica on nodes."
    )
    engine_metrics: bool = Field(True, description="Export vLLM's own metrics through Ray.")

    @field_validator("engine_kwargs")
    @classmethod
    def _not_owned(cls, value: dict[str, Any]) -> dict[str, Any]:
        for key, owner in OWNED_ENGINE_KWARGS.items():
            if key in value:
                raise ValueError(f"{key} is decided by the model's `{owner}`; set that")
        return value
