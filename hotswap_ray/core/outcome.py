"""Small frozen values that travel between the data path, the actors and the store."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal

from hotswap_ray.core.spec.task import Preferences

Endpoint = Literal["chat/completions", "completions"]


class RoutingDecision(StrEnum):
    """Why a model got a request; the ``x-hotswap-decision`` header."""

    ACTIVE = "active"
    CANARY = "canary"
    AB_TEST = "ab_test"
    EXPLORE = "explore"
    PINNED = "pinned"
    FALLBACK = "fallback"
    ESCALATED = (
        "escalated"  # the one that would have answered cannot: it lacks context, or a feature
    )
    CONVERSATION = "conversation"  # a tool loop ends where it began, whatever the route says now
    # These occur in outcomes only, never in the header:
    SHADOWED = "shadowed"  # the active model answered, and a candidate got a copy
    SHADOW = "shadow"  # the candidate's answer to that copy, which no client saw
    BENCH = "bench"
    GOLDEN = "golden"
    REFUSED = "refused"  # by us, so no model was asked


class Ending(StrEnum):
    """How a request ended. Each ends as exactly one of these at every model that it was sent to."""

    OK = "ok"
    FAILED = "failed"
    TIMED_OUT = "timed_out"
    REFUSAL = "refusal"  # a candidate answered 4xx to what the active model then answered
    # The model is not to blame for these:
    CLIENT_ERROR = "client_error"  # 4xx, and nobody else took it
    CANCELLED = "cancelled"  # the client left
    SATURATED = "saturated"  # it had no room just then
    REFUSED = "refused"  # by us


NEUTRAL = frozenset({Ending.CLIENT_ERROR, Ending.CANCELLED, Ending.SATURATED, Ending.REFUSED})
"""Endings that say nothing of a model: counted, and never evidence."""

NO_TASK = ""
"""Task of a request that names a model and no task: evidence of none."""
SHADOW_PREFIX = "shadow-"
"""Before the request id in the outcome of a copy."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one request, as the ingress saw it.

    Attributes:
        request_id: The ``x-request-id`` of the answer.
        task: Task it was served under.
        model: Model that answered (or failed).
        generation: Load of that model, 1 and up.
        decision: Why this model.
        at_s: Unix time when the request arrived.
        success: Whether the answer reached its last byte.
        latency_ms: First byte in to last byte out.
        ttft_ms: Time to the first byte; ``None`` when there was none or not streamed.
        tokens_in: Prompt tokens.
        tokens_out: Answer tokens.
        memory_bytes: Memory of the replica; 0 when unknown.
        quality: Score in [0, 1]; ``None`` when nobody judged it. Missing is missing.
        format_ok: Whether the answer has the form asked for; ``None`` where none was.
        ending: How it ended, where ``success`` alone does not tell; see ``end``.
        status: HTTP status that it ended with; 0 where it was answered, or is not known.
        wrong_form: What is wrong with its form, for people; not kept in the store.
    """

    request_id: str
    task: str
    model: str
    generation: int
    decision: str
    at_s: float
    success: bool
    latency_ms: float
    ttft_ms: float | None = None
    tokens_in: int = 0
    tokens_out: int = 0
    memory_bytes: int = 0
    quality: float | None = None
    format_ok: bool | None = None
    ending: str | None = None
    status: int = 0
    wrong_form: str = field(default="", kw_only=True)

    @property
    def end(self) -> str:
        """How it ended, one of ``Ending``.

        Example:
            >>> Outcome("r", "t", "m", 1, "active", 0.0, False, 12.5).end
            <Ending.FAILED: 'failed'>
        """
        return self.ending or (Ending.OK if self.success else Ending.FAILED)

    @property
    def is_answer(self) -> bool:
        """Whether a client has seen something of it; if not, another model may still answer."""
        return self.success or self.ttft_ms is not None

    @property
    def is_evidence(self) -> bool:
        """Whether it says something of a model at a task: an answer, or a fault of the model."""
        return self.ending not in NEUTRAL and self.task != NO_TASK


@dataclass(frozen=True, slots=True)
class Criteria:
    """What a caller asks of the model that will serve; what it leaves out is filled in.

    Attributes:
        task_type: Task id.
        required_capabilities: Capabilities the model must have.
        quality_threshold: Least quality in [0, 1]; ``None`` when not stated.
        max_latency_ms: Longest acceptable answer time; ``None`` when not stated.
        max_memory_bytes: Most memory one replica may use; ``None`` when not stated.
        available_hardware: Hardware the model may run on; empty when not stated.
        preferences: Relative weights of what is good; ``None`` when not stated.
    """

    task_type: str
    required_capabilities: tuple[str, ...] = ()
    quality_threshold: float | None = None
    max_latency_ms: float | None = None
    max_memory_bytes: int | None = None
    available_hardware: tuple[Literal["cpu", "gpu"], ...] = ()
    preferences: Preferences | None = None
