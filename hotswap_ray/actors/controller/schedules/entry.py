"""The saved record of a schedule, and what the scheduler asks of the swap controller."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from hotswap_ray.core.spec.schedule import ScheduledSwap, ScheduleSpec


class SwapPort(Protocol):
    """What a scheduler asks of the swap controller."""

    async def begin(self, swap: ScheduledSwap, swap_id: str) -> None:
        """Ask for a swap; the same id again is the same swap."""
        ...

    async def phase(self, swap_id: str) -> str | None:
        """Phase of a swap, ``None`` when there is none."""
        ...

    def model_of(self, task: str) -> str | None:
        """Model that serves a task."""
        ...

    def open_tasks(self) -> Collection[str]:
        """Tasks with an open swap."""
        ...

    async def rates(self) -> Mapping[str, float]:
        """Requests a second by task; a task that is missing is not known."""
        ...


@dataclass(frozen=True, slots=True)
class ScheduleRecord:
    """A schedule and how far it is; saved whole before every step.

    Attributes:
        spec: ``None`` once it was deleted, so that the file does not bring it back.
        source: ``config`` or ``runtime``.
        handled_s: Due time up to which all runs are done; no earlier one ever runs.
        due_s: Due time of the run that is in progress.
        ended: Swaps of that run, by number, that ended without a record of their own.
        results: Results of the last runs, the newest last.
    """

    spec: ScheduleSpec | None
    source: str
    handled_s: float
    due_s: float | None = None
    ended: Mapping[str, str] = field(default_factory=dict)
    results: tuple[dict[str, Any], ...] = ()

    def to_doc(self) -> dict[str, Any]:
        """Plain values for the store."""
        spec = None if self.spec is None else self.spec.model_dump(mode="json")
        return {name: getattr(self, name) for name in self.__dataclass_fields__} | {"spec": spec}

    @classmethod
    def from_doc(cls, doc: Mapping[str, Any]) -> ScheduleRecord:
        """Inverse of ``to_doc``; unknown keys of a newer version are ignored."""
        fields = {name: doc[name] for name in cls.__dataclass_fields__ if name in doc}
        spec = doc["spec"] and ScheduleSpec.model_validate(doc["spec"])
        return cls(**fields | {"spec": spec, "results": tuple(doc["results"])})


def changed(
    entry: ScheduleRecord, spec: ScheduleSpec | None, source: str, now_s: float
) -> ScheduleRecord:
    """An entry with another spec, which holds from now on; a run in progress is given up."""
    handled_s = max(entry.handled_s, entry.due_s or 0.0, now_s)
    return replace(entry, spec=spec, source=source, handled_s=handled_s, due_s=None, ended={})
