"""The log of decisions: each one that differs from the last, with its inputs and a sentence."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from hotswap_ray.core.autoswap.explain import sentence, what_would_change
from hotswap_ray.core.autoswap.view import Finding
from hotswap_ray.store import Store


class DecisionLog:
    """Keeps decisions and non-decisions; one that repeats the last is not kept again.

    Args:
        store: Where they are kept.
        clock: Unix seconds.

    Attributes:
        current: The last finding of each task, kept or not.
    """

    def __init__(self, store: Store, clock: Callable[[], float]) -> None:
        self.current: dict[str, Finding] = {}
        self._store = store
        self._clock = clock
        self._last: dict[str, tuple[Any, ...]] = {}

    async def load(self) -> None:
        """Read the last decision of each task, so that a restart keeps none twice."""
        for task, doc in (await asyncio.to_thread(self._store.latest_decisions)).items():
            self._last[task] = tuple(doc.get(name) for name in NEWS)

    async def add(self, finding: Finding, swap_id: str | None = None) -> None:
        """Keep a finding if it differs from the last or is acted on; durable when this returns.

        Args:
            finding: The result of a look.
            swap_id: Swap that is about to be asked for.

        Raises:
            StoreError: It could not be kept.
        """
        doc = decision_doc(finding)
        task = finding.decision.task
        self.current[task] = finding
        identity = tuple(doc[name] for name in NEWS)
        is_acted_on = swap_id is not None or finding.decision.action == "unload"
        if not is_acted_on and identity == self._last.get(task):
            return
        decision = finding.decision
        with_event = (
            decision.action not in ("stay", "undecided")
            or decision.reason in TROUBLE
            or decision.success_alarm
        )
        await asyncio.to_thread(self._write, task, doc, swap_id, with_event)
        self._last[task] = identity

    def _write(self, task: str, doc: dict[str, Any], swap_id: str | None, event: bool) -> None:
        now_s = self._clock()
        with self._store.transaction():
            self._store.add_decision(task, now_s, doc, swap_id)
            if event:
                shown = {name: doc[name] for name in ("action", "reason", "model", "sentence")}
                event_doc = {"task": task, "swap_id": swap_id, **shown}
                self._store.add_event("decision", event_doc, now_s)


NEWS = ("action", "reason", "active", "model", "applies", "success_alarm")
"""Fields in which two different decisions about a task differ."""
TROUBLE = frozenset({"unknown_active", "collapsed_without_alternative"})
"""Reasons to do nothing that an operator should hear of: they become events too."""


def decision_doc(finding: Finding) -> dict[str, Any]:
    """A finding as plain values, with its sentence and what would lead to another one."""
    decision = finding.decision
    return {
        **asdict(decision),
        "sentence": sentence(decision),
        "what_would_change": what_would_change(decision),
        "inputs": dict(finding.inputs),
    }
