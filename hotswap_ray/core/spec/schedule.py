"""A schedule as an operator states it: which swaps, when, and under which conditions."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from hotswap_ray.core.names import Name, Strict
from hotswap_ray.core.spec.calendar import clock_minutes, cron_runs, instant, stretch, zone
from hotswap_ray.core.spec.rollout import CanarySpec, plan_of

LONGEST_ID = 45  # the ids of its swaps add a Unix time and a number
Day = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]


class ScheduledSwap(Strict):
    """One swap of a batch."""

    task: Name = Field(description="Task whose model changes.")
    model: Name = Field(description="Model that shall serve it.")
    bake_s: float | None = Field(None, ge=0, le=604_800, description="Overrides swap.bake_s.")
    strategy: Literal["auto", "overlap", "sleep", "drain_first"] | None = Field(
        None, description="Overrides swap.strategy."
    )
    canary: str | None = Field(
        None, max_length=200, description="Percentages as 5,25, instead of swap.canary.steps."
    )

    @field_validator("canary")
    @classmethod
    def _percentages(cls, value: str | None) -> str | None:
        if value is not None:
            plan_of(value, CanarySpec())  # raises
        return value


class MaintenanceWindow(Strict):
    """Local times in which swaps may begin."""

    days: tuple[Day, ...] = Field(
        ("mon", "tue", "wed", "thu", "fri", "sat", "sun"),
        min_length=1,
        description="Days on which it opens.",
    )
    start: str = Field(max_length=5, description="Local time at which it opens, as 22:00.")
    end: str = Field(
        max_length=5, description="Local time at which it closes; not after start: the next day."
    )

    @field_validator("start", "end", mode="before")
    @classmethod
    def _clock(cls, value: Any) -> Any:
        """YAML reads a bare ``22:00`` as the number 1320."""
        if isinstance(value, int) and not isinstance(value, bool):
            value = f"{value // 60:02}:{value % 60:02}"
        if isinstance(value, str):
            clock_minutes(value)
        return value


class ScheduleSpec(Strict):
    """Swaps at a time, or again and again."""

    id: Name = Field(description="Schedule id.")
    swaps: tuple[ScheduledSwap, ...] = Field(
        min_length=1, max_length=1000, description="The batch, in the order to begin it."
    )
    at: str | None = Field(
        None, max_length=64, description="ISO time to run once; local without an offset."
    )
    cron: str | None = Field(
        None, max_length=256, description="Minute, hour, day, month, weekday; instead of at."
    )
    timezone: str = Field(
        "UTC", max_length=64, description="IANA zone of all local times, as Europe/Berlin."
    )
    window: MaintenanceWindow | None = Field(
        None, description="Local times in which its swaps may begin; none is always."
    )
    blackouts: tuple[str, ...] = Field(
        (), description="Days, or FROM/TO with days or ISO times, in which none begins."
    )
    quiet_below_rps: float | None = Field(
        None, gt=0, le=1e6, description="Begin while the task answers fewer requests a second."
    )
    at_once: int = Field(
        1, ge=1, le=1000, description="Open swaps, whoever began them, from which none begins."
    )
    defer_s: float = Field(
        14_400, ge=1, le=604_800, description="Longest a swap may wait to begin once it is due."
    )
    expires_at: str | None = Field(
        None, max_length=64, description="ISO time after which nothing begins."
    )
    on_failure: Literal["stop", "continue"] = Field(
        "stop", description="What a swap that failed does to the rest of its batch."
    )
    enabled: bool = Field(True, description="Whether it runs.")

    @field_validator("at", "expires_at", mode="before")
    @classmethod
    def _iso(cls, value: Any) -> Any:
        """YAML reads what looks like a day or a time as one; it becomes text again."""
        return value.isoformat() if hasattr(value, "isoformat") else value

    @field_validator("blackouts", mode="before")
    @classmethod
    def _all_iso(cls, value: Any) -> Any:
        return [cls._iso(item) for item in value] if isinstance(value, list | tuple) else value

    @model_validator(mode="after")
    def _possible(self) -> ScheduleSpec:
        if len(self.id) > LONGEST_ID:
            raise ValueError(f"the id of a schedule has at most {LONGEST_ID} characters")
        if (self.at is None) == (self.cron is None):
            raise ValueError("a schedule has either at or cron")
        zone(self.timezone)
        for text in (self.at, self.expires_at):
            if text is not None:
                instant(text, self.timezone)
        for text in self.blackouts:
            stretch(text, self.timezone)
        if self.cron is not None and next(cron_runs(self.cron, self.timezone, 0.0), None) is None:
            raise ValueError(f"cron {self.cron!r} is never due")
        return self

    def swap_id(self, due_s: float, number: int) -> str:
        """Id of a swap of the run that was due at a Unix time; the same whenever it is asked."""
        return f"{self.id}-{int(due_s)}-{number}"
