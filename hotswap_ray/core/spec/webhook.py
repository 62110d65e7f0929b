"""What a webhook is: where swaps are told of, which of their phases, and who may stop them."""

from __future__ import annotations

from typing import Literal
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, field_validator

from hotswap_ray.core.names import Strict, did_you_mean
from hotswap_ray.core.swap.phases import TERMINAL, Phase

When = Literal["before", "after"]
STOPPABLE = frozenset(
    {
        Phase.CHECKING,
        Phase.LOADING,
        Phase.VALIDATING,
        Phase.TRANSFERRING,
        Phase.CANARY,
        Phase.SWITCHING,
    }
)
"""Phases that a webhook may stop before they begin: the candidate does not serve alone yet."""


class WebhookSpec(Strict):
    """A server that is told of the phases of swaps."""

    url: str = Field(
        pattern=r"^https?://[^\s/]+",
        max_length=2048,
        repr=False,  # it may hold a token
        description="http or https; redirects are not followed.",
    )
    events: tuple[str, ...] = Field(
        (), description="before:PHASE, after:PHASE, or PHASE for both; none is all."
    )
    timeout_s: float = Field(5, ge=0.05, le=60, description="Longest wait for an answer.")
    on_failure: Literal["ignore", "abort"] = Field(
        "ignore", description="Whether no 2xx to a before: event ends a swap that has not switched."
    )
    secret: SecretStr | None = Field(
        None, description="Key of the HMAC-SHA256 of the body in x-hotswap-signature."
    )

    @field_validator("secret", mode="before")
    @classmethod
    def _empty_is_none(cls, value: object) -> object:
        """An unset ``${SECRET:-}`` means no signature, never one that anybody can make."""
        return None if value == "" else value

    @field_validator("events")
    @classmethod
    def _events_exist(cls, events: tuple[str, ...]) -> tuple[str, ...]:
        for event in events:
            when, _, phase = event.rpartition(":")
            if when not in ("", "before", "after") or phase not in set(Phase):
                raise ValueError(
                    f"event {event!r} is no phase, before:PHASE or after:PHASE"
                    f"{did_you_mean(phase, [member.value for member in Phase])}"
                )
            if when == "before" and Phase(phase) in TERMINAL:
                raise ValueError(f"nothing is done in {phase}; use after:{phase}")
        return events

    @property
    def name(self) -> str:
        """Where it is, without what may be secret.

        Example:
            >>> WebhookSpec(url="https://me:pw@hooks.example.com:8443/T0KEN").name
            'hooks.example.com:8443'
        """
        return urlsplit(self.url).netloc.rpartition("@")[2]

    def wants(self, when: When, phase: Phase) -> bool:
        """Whether it is told of an event.

        Example:
            >>> hook = WebhookSpec(url="http://ci", events=("before:switching", "failed"))
            >>> hook.wants("before", Phase.SWITCHING), hook.wants("after", Phase.SWITCHING)
            (True, False)
        """
        return not self.events or bool({f"{when}:{phase}", str(phase)} & {*self.events})

    def may_stop(self, phase: Phase) -> bool:
        """Whether a swap does not go on to ``phase`` without its consent."""
        return self.on_failure == "abort" and phase in STOPPABLE
