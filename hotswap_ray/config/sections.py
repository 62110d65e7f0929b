"""The sections ``server``, ``swap``, ``learning``, ``store`` and ``cluster`` of the YAML file."""

from __future__ import annotations

import re
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, SecretStr, field_validator, model_validator

from hotswap_ray.core.names import Name, Strict
from hotswap_ray.core.routing.conversation import ORDER
from hotswap_ray.core.spec.rollout import CanarySpec, GuardrailSpec

_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[^/\s?#@A-Z]+")


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class ServerConfig(Strict):
    """The HTTP endpoint."""

    host: str = Field(
        "127.0.0.1", min_length=1, max_length=255, description="Address to listen on."
    )
    port: int = Field(8000, ge=1, le=65_535, description="Port to listen on.")
    ingress_replicas: int = Field(
        2, ge=1, le=64, description="Processes that take requests; the count never scales."
    )
    api_keys: tuple[SecretStr, ...] = Field(
        (), description="Bearer tokens clients may use; none leaves the data plane open."
    )
    admin_token: SecretStr | None = Field(
        None, description="Bearer token of /admin; required unless `host` is this machine only."
    )
    max_body_bytes: int = Field(
        8 * 2**20, ge=1024, le=2**30, description="Largest request body; beyond it 413."
    )
    first_byte_timeout_s: float = Field(
        60, ge=0.05, le=86_400, description="Longest wait for the first byte of an answer."
    )
    request_timeout_s: float = Field(
        600, ge=0.05, le=86_400, description="Longest whole answer, streaming included."
    )
    stream_idle_timeout_s: float = Field(
        120, ge=0.05, le=86_400, description="Longest silence in the middle of a streamed answer."
    )
    tool_result_wait_s: float = Field(
        30,
        ge=0,
        le=3600,
        description="Longest a model that is replaced waits for the result of a call it made.",
    )
    conversation_keys: tuple[str, ...] = Field(
        ORDER,
        max_length=32,
        description="What names a conversation, the best first: headers have a hyphen, fields of "
        "the body none; `messages` stands for the first messages.",
    )
    hold_timeout_s: float = Field(
        120, ge=0, le=3600, description="Longest a request waits while a swap holds its route."
    )
    max_held_requests: int = Field(
        256, ge=0, le=100_000, description="Requests held per ingress replica; beyond it 503."
    )
    max_in_flight: int = Field(
        1000, ge=1, le=100_000, description="Requests at work per ingress replica; beyond it 429."
    )
    stream_comment_s: float | None = Field(
        5,
        ge=0.05,
        le=3600,
        description="Silence in a stream after which a comment is sent; null for none.",
    )
    cors_origins: tuple[str, ...] = Field(
        (), description='Origins whose pages may use the data plane, for example "*".'
    )

    @field_validator("api_keys", "admin_token", mode="before")
    @classmethod
    def _empty_is_none(cls, value: Any) -> Any:
        """An unset ``${TOKEN:-}`` means no token, never a token of length zero."""
        if isinstance(value, list | tuple):
            return [item for item in value if item != ""]
        return None if value == "" else value

    @field_validator("cors_origins", mode="before")
    @classmethod
    def _one_is_a_list(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) and value else value or ()

    @field_validator("cors_origins")
    @classmethod
    def _as_browsers_write_it(cls, origins: tuple[str, ...]) -> tuple[str, ...]:
        for origin in origins:
            if origin != "*" and not _ORIGIN.fullmatch(origin):
                raise ValueError(
                    f'{origin!r} is no origin; write scheme://host or scheme://host:port, or "*"'
                )
        return origins

    @model_validator(mode="after")
    def _guarded(self) -> ServerConfig:
        if self.admin_token is None and not _is_loopback(self.host):
            raise ValueError(
                f"host {self.host} lets other machines reach /admin; set admin_token "
                "(for example ${HOTSWAP_ADMIN_TOKEN}) or listen on 127.0.0.1"
            )
        return self

    @model_validator(mode="after")
    def _ordered(self) -> ServerConfig:
        if self.first_byte_timeout_s > self.request_timeout_s:
            raise ValueError(
                f"first_byte_timeout_s {self.first_byte_timeout_s:g} exceeds "
                f"request_timeout_s {self.request_timeout_s:g}"
            )
        return self


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


class LearningConfig(Strict):
    """What is kept of each request."""

    flush_s: float = Field(1, ge=0.01, le=60, description="Longest an outcome waits for a batch.")
    half_life_requests: float = Field(
        500, ge=1, le=1e9, description="Requests after which evidence counts half."
    )
    retention_s: float = Field(
        30 * 86_400, ge=60, le=10 * 366 * 86_400, description="Age at which outcomes are deleted."
    )
    one_key_decides: bool = Field(
        False,
        description="Whether scores of one API key may bring about a swap; else two must agree.",
    )
    feedback_per_minute: int = Field(
        600, ge=1, le=10**6, description="Scores that one API key may give; beyond it 429."
    )
    check_timeout_s: float = Field(
        2, ge=0.05, le=60, description="Time one answer's checks may take; then it is not judged."
    )


class StoreConfig(Strict):
    """Where learnings, swaps and routes survive a restart."""

    url: str = Field(
        "sqlite:///~/.local/state/hotswap_ray/hotswap.sqlite",
        max_length=4096,
        repr=False,  # it may hold a password
        validate_default=True,
        description="sqlite:///PATH, or postgresql+psycopg://USER:PASSWORD@HOST/NAME.",
    )

    @field_validator("url")
    @classmethod
    def _resolved(cls, url: str) -> str:
        scheme, separator, location = url.partition("://")
        if not separator or scheme.partition("+")[0] not in ("sqlite", "postgresql"):
            raise ValueError(
                "expected sqlite:///PATH or postgresql+psycopg://USER:PASSWORD@HOST/NAME"
            )
        path = location.removeprefix("/")
        if not scheme.startswith("sqlite") or path in ("", ":memory:"):
            return url
        # Actors run in other directories than the caller.
        return f"{scheme}:///{Path(path).expanduser().absolute()}"


class ClusterConfig(Strict):
    """The Ray cluster to run on."""

    address: str | None = Field(
        None, max_length=512, description="Ray address, or auto; none starts Ray on this machine."
    )
    namespace: Name = Field("hotswap", description="Ray namespace of the actors.")
    ha_proxy: bool = Field(
        True, description="Set RAY_SERVE_ENABLE_HA_PROXY=1 when starting Ray: cheaper requests."
    )
    throughput_optimized: bool = Field(
        True, description="Set RAY_SERVE_THROUGHPUT_OPTIMIZED=1 when starting Ray."
    )
