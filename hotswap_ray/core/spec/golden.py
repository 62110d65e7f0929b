"""How an answer is judged, and prompts whose answers can be: what an operator writes."""

from __future__ import annotations

import math
import re
from typing import Any, Literal

from jsonschema import SchemaError
from jsonschema.validators import Draft202012Validator, validator_for
from pydantic import Field, model_validator

from hotswap_ray.core.names import Strict

Kind = Literal[
    "contains", "exact", "identical", "regex", "numeric", "json_schema", "callable",
    "non_empty", "length", "refusal",
]  # fmt: skip
GUARDS = frozenset({"non_empty", "length", "refusal"})
"""Kinds that only rule answers out: failing one makes an answer worthless, passing adds nothing."""


class Check(Strict):
    """How an answer is judged, in [0, 1]."""

    kind: Kind = Field("contains", description="How `value` is compared with the answer.")
    value: str = Field(
        "", max_length=10_000, description="What is looked for; of a callable its name."
    )
    tolerance: float = Field(0, ge=0, le=1e12, description="Allowed difference, numeric only.")
    json_schema: dict[str, Any] | None = Field(
        None, description="JSON schema that the answer has to meet, json_schema only."
    )
    min_chars: int = Field(0, ge=0, le=10**7, description="Fewest characters, length only.")
    max_chars: int = Field(10**7, ge=1, le=10**7, description="Most characters, length only.")
    weight: float = Field(1, gt=0, le=1000, description="Weight among a task's checks.")

    @model_validator(mode="after")
    def _usable(self) -> Check:
        if self.kind == "regex":
            try:
                re.compile(self.value)
            except re.error as error:
                raise ValueError(f"value is not a regular expression: {error}") from None
        if self.kind == "numeric":
            try:
                finite = math.isfinite(float(self.value))
            except ValueError:
                finite = False
            if not finite:
                raise ValueError("value is not a number")
        if self.kind == "json_schema" and self.json_schema is None:
            raise ValueError("json_schema needs the field json_schema")
        if self.json_schema is not None:
            try:
                validator = validator_for(self.json_schema, default=Draft202012Validator)
                validator.check_schema(self.json_schema)
            except SchemaError as error:
                raise ValueError(f"not a JSON schema: {error.message[:200]}") from None
        if self.min_chars > self.max_chars:
            raise ValueError(f"min_chars {self.min_chars} exceeds max_chars {self.max_chars}")
        needs_value = self.kind not in GUARDS and self.kind != "json_schema"
        if needs_value and not self.value.strip():
            raise ValueError(f"{self.kind} needs a value")
        return self


class GoldenPrompt(Strict):
    """A prompt whose answer can be checked, asked of a model before it gets traffic."""

    prompt: str | None = Field(None, description="Text for /v1/completions.")
    messages: tuple[dict[str, Any], ...] | None = Field(
        None, description="Messages for /v1/chat/completions."
    )
    max_tokens: int = Field(16, ge=1, le=100_000, description="Longest answer.")
    stop: tuple[str, ...] = Field((), description="Stop strings.")
    check: Check = Field(default_factory=lambda: Check(kind="non_empty"))
    weight: float = Field(1, gt=0, le=1000, description="Weight in the mean of a benchmark.")

    @model_validator(mode="after")
    def _one_of(self) -> GoldenPrompt:
        if (self.prompt is None) == (self.messages is None):
            raise ValueError("give either prompt or messages")
        return self
