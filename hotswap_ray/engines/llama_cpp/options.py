"""What an operator may set for a llama.cpp model."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class LlamaCppOptions(BaseModel):
    """Options of the llama.cpp engine."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    threads: int | None = Field(
        None, ge=1, le=1024, description="Threads; the CPUs reserved in Ray if unset."
    )
    chat_template: str | None = Field(
        None,
        max_length=100_000,
        description="Jinja chat template; if unset the file's own, or questions and answers.",
    )
    gpu_layers: int = Field(0, ge=-1, le=10_000, description="Layers on the GPU; -1 is all.")
    seed: int | None = Field(None, ge=0, le=2**32 - 2, description="Seed; random if unset.")
    temperature: float = Field(0.8, ge=0, le=2, description="Used when a request states none.")
    batch_tokens: int = Field(512, ge=32, le=8192, description="Prompt tokens computed at once.")
    prompt_cache_mib: int = Field(
        0, ge=0, le=1_048_576, description="Memory to keep prompts of former requests in."
    )
    poll: int = Field(
        0, ge=0, le=100, description="Share of the time idle threads spin; slows neighbours."
    )
