"""The record of an A/B test: what was asked for, how far it is, and what came of it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import Any

from hotswap_ray.core.rollout.ab_report import ABTestSpec


class ABTestPhase(StrEnum):
    """How far a test is, in order; only ``ending`` may follow any open phase."""

    PREPARING = "preparing"  # models are loaded and validated
    SETTLING = "settling"  # the ingress gets to know the conversations that go on
    RUNNING = "running"
    ENDING = "ending"  # the conversations are still divided
    CLOSING = "closing"  # they are no longer divided; what was loaded for the test is given back
    ENDED = "ended"


@dataclass(frozen=True, slots=True)
class ABTest:
    """One A/B test.

    Attributes:
        id: Given by whoever asks; the same id again is the same test.
        task: Task whose conversations are divided.
        control: Its active model.
        spec: What was asked for.
        phase: How far it is.
        requested_by: Who asked.
        requested_at_s: When, Unix time.
        updated_at_s: Last change, Unix time.
        began_s: Since when the conversations are divided, Unix time; 0 before.
        phase_s: Since when it is in its phase, Unix time.
        weights: Share of each variant now, in [0, 1].
        weights_s: Since when, Unix time.
        dropped: Variants that are out, and why.
        lent: Models loaded for the test, and what they go back to: ``unload`` or ``sleep``.
        report: ``core.rollout.ab_result.ABTestReport`` as JSON values; ``None`` before the
            first look.
        history: Of effects, for the plot; ``None`` before the end.
        reason: Why it ended: that of the report, or ``stopped``.
        promote: Model that gets the task after the end, if any.
        swap_id: The swap that gives it the task.
        error: Why there is none.
    """

    id: str
    task: str
    control: str
    spec: ABTestSpec
    phase: ABTestPhase = ABTestPhase.PREPARING
    requested_by: str = "operator"
    requested_at_s: float = 0.0
    updated_at_s: float = 0.0
    began_s: float = 0.0
    phase_s: float = 0.0
    weights: Mapping[str, float] = field(default_factory=dict)
    weights_s: float = 0.0
    dropped: Mapping[str, str] = field(default_factory=dict)
    lent: Mapping[str, str] = field(default_factory=dict)
    report: Mapping[str, Any] | None = None
    history: Mapping[str, Any] | None = None
    reason: str = ""
    promote: str | None = None
    swap_id: str = ""
    error: str = ""

    @property
    def is_open(self) -> bool:
        """Whether it still has work to do."""
        return self.phase is not ABTestPhase.ENDED

    @property
    def divides(self) -> bool:
        """Whether it has the task's conversations, or is about to."""
        return self.phase not in (ABTestPhase.CLOSING, ABTestPhase.ENDED)

    @property
    def live(self) -> list[str]:
        """Variants that take part."""
        return [model for model in self.spec.variants if model not in self.dropped]

    @property
    def models(self) -> list[str]:
        """All that take part, the control first."""
        return [self.control, *self.spec.variants]

    @property
    def etag(self) -> str:
        """Another one after every change that an operator would want to know of.

        What was seen changes all the time and does not count; phase, shares and who is out do.
        """
        state = (self.id, str(self.phase), sorted(self.weights.items()), sorted(self.dropped))
        outcome = (self.reason, self.promote, self.swap_id, self.error)
        return hashlib.sha256(repr((*state, *outcome)).encode()).hexdigest()[:12]

    def to_doc(self, brief: bool = False) -> dict[str, Any]:
        """Plain values for the store and for JSON; a ``brief`` one has no report and history."""
        doc = {column.name: getattr(self, column.name) for column in fields(self)}
        for name in ("weights", "dropped", "lent"):
            doc[name] = dict(doc[name])
        if brief:
            del doc["report"], doc["history"]
        doc["spec"] = self.spec.model_dump(mode="json")
        return {**doc, "phase": str(self.phase), "etag": self.etag}

    @classmethod
    def from_doc(cls, doc: Mapping[str, Any]) -> ABTest:
        """Inverse of ``to_doc``; unknown keys of a newer version are ignored."""
        values = {column.name: doc[column.name] for column in fields(cls) if column.name in doc}
        values["spec"] = ABTestSpec.model_validate(values["spec"])
        values["phase"] = ABTestPhase(values["phase"])
        return cls(**values)
