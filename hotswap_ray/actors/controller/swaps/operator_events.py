"""Signals of operators to an open swap, and the result of one turn in a phase."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from hotswap_ray.core.errors import IllegalTransition, SwapError
from hotswap_ray.core.swap.etag import matches, mismatch
from hotswap_ray.core.swap.phases import Event, Swap

STAYING = (Event.PAUSE, Event.RESUME)
"""Events that change how a phase is acted upon, and not the phase."""


@dataclass(frozen=True, slots=True)
class Step:
    """The result of one turn in a phase; without an event the phase is repeated."""

    swap: Swap
    event: Event | None
    error: str = ""
    signal: Signal | None = None


@dataclass(frozen=True, slots=True)
class Signal:
    """An operator's event, and the future that its sender waits for."""

    event: Event
    undo_id: str
    by: str
    answer: asyncio.Future[Swap]
    if_match: str | None = None

    def step(self, swap: Swap, event: Event) -> Step:
        """The turn that this event ends."""
        if self.undo_id:
            swap = swap.with_facts(undo_id=self.undo_id)
        if self.event in STAYING:
            paused = f"by {self.by}" if self.event is Event.PAUSE else ""
            return Step(swap.with_facts(paused=paused), event, "", self)
        error = "" if self.event is Event.PROMOTE else f"{self.event} by {self.by}"
        return Step(swap, event, error, self)

    def accept(self, swap: Swap) -> None:
        """Answer with the record in which the event has been saved."""
        if not self.answer.done():
            self.answer.set_result(swap)

    def refuse(self, swap: Swap) -> None:
        """Answer with an error: the phase changed before the event could be acted upon."""
        if self.answer.done():
            return
        error: SwapError = mismatch(swap)
        if matches(swap, self.if_match):
            error = IllegalTransition(
                f"swap {swap.swap_id} is {swap.phase} by now; not {self.event}"
            )
        self.answer.set_exception(error)


def clip(text: str, limit_bytes: int = 300) -> str:
    """A text that fits into a small event.

    Example:
        >>> clip("\u20ac" * 3, 7)
        '\u20ac\u20ac'
    """
    return text.encode()[:limit_bytes].decode(errors="ignore")
