"""The life of a swap as a table, and the record that is saved before every step.

Rules, and they live here only:

1. ``advance`` is the one way to change a phase. An event that is not in ``TRANSITIONS``
   for the phase raises ``IllegalTransition`` and changes nothing.
2. Before the switch any trouble releases the candidate; users saw nothing.
3. After the switch the old model is still warm: going back is one more commit.
4. ``FAILED`` on a phase that must not fail (draining, retiring, releasing, rolling back)
   stays in the phase: the controller tries again.
5. A terminal phase has no way out.

``docs/architecture.md`` shows ``mermaid()``; a test keeps the two equal.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from typing import Any

from hotswap_ray.core.errors import IllegalTransition


class Phase(StrEnum):
    """Where a swap is."""

    REQUESTED = "requested"
    CHECKING = "checking"
    LOADING = "loading"
    VALIDATING = "validating"
    TRANSFERRING = "transferring"
    CANARY = "canary"
    SWITCHING = "switching"
    DRAINING = "draining"
    BAKING = "baking"
    RETIRING = "retiring"
    SUCCEEDED = "succeeded"
    RELEASING = "releasing"
    FAILED = "failed"
    ROLLING_BACK = "rolling_back"
    ROLLED_BACK = "rolled_back"


class Event(StrEnum):
    """What happened: the phase's action ended, or an operator spoke."""

    DONE = "done"
    FAILED = "failed"
    ABORT = "abort"
    PROMOTE = "promote"
    ROLLBACK = "rollback"
    PAUSE = "pause"
    RESUME = "resume"


P, E = Phase, Event

TRANSITIONS: Mapping[Phase, Mapping[Event, Phase]] = {
    # Nothing exists yet, so there is nothing to release.
    P.REQUESTED: {E.DONE: P.CHECKING, E.ABORT: P.FAILED},
    P.CHECKING: {E.DONE: P.LOADING, E.FAILED: P.FAILED, E.ABORT: P.FAILED},
    P.LOADING: {E.DONE: P.VALIDATING, E.FAILED: P.RELEASING, E.ABORT: P.RELEASING},
    P.VALIDATING: {E.DONE: P.TRANSFERRING, E.FAILED: P.RELEASING, E.ABORT: P.RELEASING},
    P.TRANSFERRING: {E.DONE: P.CANARY, E.FAILED: P.RELEASING, E.ABORT: P.RELEASING},
    # Without canary steps the action is done at once; there is no special case.
    P.CANARY: {
        E.DONE: P.SWITCHING,
        E.PROMOTE: P.SWITCHING,
        E.FAILED: P.RELEASING,
        E.ABORT: P.RELEASING,
        E.PAUSE: P.CANARY,
        E.RESUME: P.CANARY,
    },
    # One commit of the route table; FAILED means that it did not happen.
    P.SWITCHING: {E.DONE: P.DRAINING, E.FAILED: P.RELEASING},
    P.DRAINING: {E.DONE: P.BAKING, E.FAILED: P.DRAINING, E.ROLLBACK: P.ROLLING_BACK},
    P.BAKING: {
        E.DONE: P.RETIRING,
        E.PROMOTE: P.RETIRING,
        E.FAILED: P.ROLLING_BACK,
        E.ROLLBACK: P.ROLLING_BACK,
    },
    P.RETIRING: {E.DONE: P.SUCCEEDED, E.FAILED: P.RETIRING},
    P.RELEASING: {E.DONE: P.FAILED, E.FAILED: P.RELEASING},
    P.ROLLING_BACK: {E.DONE: P.ROLLED_BACK, E.FAILED: P.ROLLING_BACK},
    P.SUCCEEDED: {},
    P.FAILED: {},
    P.ROLLED_BACK: {},
}

TERMINAL = frozenset(phase for phase, events in TRANSITIONS.items() if not events)
SWITCHED = frozenset({P.DRAINING, P.BAKING, P.RETIRING, P.SUCCEEDED})
"""Phases in which the candidate serves."""


@dataclass(frozen=True, slots=True)
class Swap:
    """One attempt to change the model of a task; saved whole in every phase.

    Attributes:
        swap_id: Given by whoever asks; the same id again is the same swap.
        task: Task whose model changes.
        from_model: Model that served when the swap was requested.
        from_generation: Its generation; 0 when none was loaded.
        to_model: The candidate.
        to_generation: Its generation; 0 until one is allocated.
        phase: Where the swap is.
        strategy: ``overlap``, ``sleep`` or ``drain_first``; empty until chosen.
        reason: Why that strategy.
        requested_by: Who or what asked.
        requested_at_s: Unix time of the request.
        updated_at_s: Unix time of the last change of phase.
        bake_s: Seconds to keep the old model warm after the switch.
        error: Why it failed or was rolled back.
        seconds: Seconds spent per phase, in order of first entry.
        facts: What was measured on the way, small numbers and short texts only.
    """

    swap_id: str
    task: str
    from_model: str
    from_generation: int
    to_model: str
    to_generation: int = 0
    phase: Phase = Phase.REQUESTED
    strategy: str = ""
    reason: str = ""
    requested_by: str = "operator"
    requested_at_s: float = 0.0
    updated_at_s: float = 0.0
    bake_s: float = 0.0
    error: str = ""
    seconds: Mapping[str, float] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_open(self) -> bool:
        """Whether the swap still has work to do."""
        return self.phase not in TERMINAL

    @property
    def etag(self) -> str:
        """Another one after every change that an operator would want to know of.

        What a canary measures changes all the time and does not count; its step does.

        Example:
            >>> Swap("s1", "t", "a", 1, "b").etag
            'f11f3daf5fd6'
        """
        step = self.facts.get("canary", {}).get("step")
        state = (self.swap_id, str(self.phase), self.updated_at_s, self.error, self.strategy)
        paused = self.facts.get("paused") or ""
        return hashlib.sha256(repr((*state, step, paused)).encode()).hexdigest()[:12]

    def with_facts(self, **facts: Any) -> Swap:
        """Add measured facts to the record."""
        return replace(self, facts={**self.facts, **facts})

    def to_doc(self) -> dict[str, Any]:
        """Plain values for the store and for JSON."""
        doc = asdict(self)
        doc["phase"] = str(self.phase)
        doc["etag"] = self.etag
        return doc

    @classmethod
    def from_doc(cls, doc: Mapping[str, Any]) -> Swap:
        """Inverse of ``to_doc``; unknown keys of a newer version are ignored."""
        values = {key: doc[key] for key in cls.__dataclass_fields__ if key in doc}
        values["phase"] = Phase(values["phase"])
        return cls(**values)


def may(phase: Phase, event: Event) -> bool:
    """Whether ``event`` exists in ``phase``."""
    return event in TRANSITIONS[phase]


def advance(swap: Swap, event: Event, now_s: float, error: str = "") -> Swap:
    """Move a swap along the table.

    Args:
        swap: The record; not changed.
        event: What happened.
        now_s: Unix time. A clock that went backwards counts as no time passed.
        error: Why, kept when the event is not plain progress.

    Returns:
        The record in its next phase, with the time spent in the last one added.

    Raises:
        IllegalTransition: The event does not exist in this phase; nothing changed.

    Example:
        >>> swap = Swap("s1", "summarise", "small", 1, "large")
        >>> advance(swap, Event.DONE, now_s=5.0).phase
        <Phase.CHECKING: 'checking'>
        >>> advance(swap, Event.PROMOTE, now_s=5.0)
        Traceback (most recent call last):
        hotswap_ray.core.errors.IllegalTransition: swap s1 is requested; promote is not possible...
    """
    moves = TRANSITIONS[swap.phase]
    if event not in moves:
        possible = ", ".join(sorted(moves)) or "nothing, it has ended"
        raise IllegalTransition(
            f"swap {swap.swap_id} is {swap.phase}; {event} is not possible there "
            f"(possible: {possible})"
        )
    spent_s = max(0.0, now_s - swap.updated_at_s) if swap.updated_at_s else 0.0
    seconds = dict(swap.seconds)
    key = swap.phase.value  # JSON takes plain texts as keys
    seconds[key] = round(seconds.get(key, 0.0) + spent_s, 4)
    return replace(
        swap,
        phase=moves[event],
        updated_at_s=max(now_s, swap.updated_at_s),
        error=error or swap.error,
        seconds=seconds,
    )


def mermaid() -> str:
    """The table as a Mermaid state diagram, for the documents.

    Example:
        >>> print(mermaid().splitlines()[0])
        stateDiagram-v2
    """
    lines = ["stateDiagram-v2", f"    [*] --> {Phase.REQUESTED}"]
    for phase, events in TRANSITIONS.items():
        by_target: dict[Phase, list[str]] = {}
        for event, target in events.items():
            by_target.setdefault(target, []).append(event)
        lines += [
            f"    {phase} --> {target}: {', '.join(names)}" for target, names in by_target.items()
        ]
        if not events:
            lines.append(f"    {phase} --> [*]")
    return "\n".join(lines)
