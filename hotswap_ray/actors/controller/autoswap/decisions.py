"""Decisions as they are kept: each that is news, with its inputs and a sentence."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from hotswap_ray.core.autoswap.explain import sentence, what_would_change
from hotswap_ray.core.autoswap.view import Finding
from hotswap_ray.store import Store


class DecisionLog:
    """Keeps decisions and non-decisions; the same one again is not news.

    Args:
        store: Where they are kept.
        clock: Unix seconds.

    Attributes:
        current: The last finding of each task, news or not.
    """

    def __init__(self, store: Store, clock: Callable[[], float]) -> None:
        self.current: dict[str, Finding] = {}
        self._store = store
        self._clock = clock
        self._last: dict[str, tuple[Any, ...]] = {}

    async def load(self) -> None:
        """Know what was kept last, so that a restart repeats nothing."""
        for task, doc in (await asyncio.to_thread(self._store.latest_decisions)).items():
            self._last[task] = tuple(doc.get(name) for name in NEWS)

    async def add(self, finding: Finding, swap_id: str | None = None) -> None:
        """Keep a finding if it is news or is acted on; durable when this returns.

        Args:
            finding: What a look found.
            swap_id: Swap that is about to be asked for.

        Raises:
            StoreError: It could not be kept.
        """
        doc = decision_doc(finding)
        task = finding.decision.task
        self.current[task] = finding
        news = tuple(doc[name] for name in NEWS)
        acts = swap_id is not None or finding.decision.action == "unload"
        if not acts and news == self._last.get(task):
            return
        decision = finding.decision
        with_event = (
            decision.action not in ("stay", "undecided")
            or decision.reason in TROUBLE
            or decision.success_alarm
        )
        await asyncio.to_thread(self._write, task, doc, swap_id, with_event)
        self._last[task] = news

    def _write(self, task: str, doc: dict[str, Any], swap_id: str | None, event: bool) -> None:
        now_s = self._clock()
        with self._store.transaction():
            self._store.add_decision(task, now_s, doc, swap_id)
            if event:
                fact = {name: doc[name] for name in ("action", "reason", "model", "sentence")}
                self._store.add_event("decision", {"task": task, "swap_id": swap_id, **fact}, now_s)


NEWS = ("action", "reason", "active", "model", "applies", "success_alarm")
"""What makes two decisions about a task different ones."""
TROUBLE = frozenset({"unknown_active", "collapsed_without_alternative"})
"""Why nothing is done although an operator should know."""


def decision_doc(finding: Finding) -> dict[str, Any]:
    """A finding as plain values, with its sentence and what would lead to another one."""
    decision = finding.decision
    return {
        **asdict(decision),
        "sentence": sentence(decision),
        "what_would_change": what_would_change(decision),
        "inputs": dict(finding.inputs),
    }
