"""The record of an open A/B test, and the one way to change it: saved with what it does.

One writer at a time, and each change of the route table is saved with the record in one
transaction. A step of a phase that an operator has ended meanwhile is refused before it changes
anything.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from operator import not_
from typing import Any

from tenacity import AsyncRetrying, retry_if_result, wait_fixed

from hotswap_ray.actors.controller.models.publisher import Publisher
from hotswap_ray.core.outcome import RoutingDecision
from hotswap_ray.core.rollout.ab_record import ABTest, ABTestPhase
from hotswap_ray.core.routing.split import Share, Split
from hotswap_ray.core.routing.table import RouteTable, with_split
from hotswap_ray.core.routing.target import Target
from hotswap_ray.store import Store

RETRY_S = 1.0


class Overtaken(Exception):
    """The test has left the phase that this step belongs to."""


class ABTestState:
    """A test as it is now.

    Args:
        test: Its record, saved.
        store: For the one commit that saves test and route table together.
        publisher: Route table.
        clock: Unix seconds.
        ack_timeout_s: Longest wait for the ingress.
    """

    def __init__(
        self,
        test: ABTest,
        store: Store,
        publisher: Publisher,
        clock: Callable[[], float],
        ack_timeout_s: float,
    ) -> None:
        self.test = test
        self.changed = asyncio.Event()
        self._store = store
        self._publisher = publisher
        self._clock = clock
        self._ack_timeout_s = ack_timeout_s
        self._lock = asyncio.Lock()

    async def divide(self, weights: Mapping[str, float]) -> None:
        """Set the weights and let the test run; conversations that have begun stay put."""
        phase = self.test.phase
        wanted = [weights.get(model, 0.0) for model in self.test.spec.variants]
        # Until every ingress replica knows which conversations have to wait, none is moved.
        opening = AsyncRetrying(retry=retry_if_result(not_), wait=wait_fixed(RETRY_S))
        await opening(self.change, phase, lambda split: split.opened(wanted))
        moving = self._publisher.moving(self.test.task)
        now_s = self._clock()
        began_s = self.test.began_s or now_s
        await self.change(
            phase,
            lambda split: split.moved(wanted, moving),
            details={"weights": dict(weights)},
            phase=ABTestPhase.RUNNING,
            weights=dict(weights),
            weights_s=now_s,
            began_s=began_s,
        )

    async def change(
        self,
        within: ABTestPhase | Sequence[ABTestPhase],
        split: Callable[[Split], Split | None] | None = None,
        *,
        details: Mapping[str, Any] | None = None,
        **changes: Any,
    ) -> bool:
        """Save a change of the record, with one of the split if any; publish that.

        Shielded: a change in the store that memory lacks would be undone by the next one.

        Args:
            within: Phases in which it holds.
            split: What becomes of the split.
            details: For the event; a change of the phase has one anyway.
            **changes: Fields of the record.

        Returns:
            Whether every live ingress replica uses the split.

        Raises:
            Overtaken: The test is in another phase; nothing was changed.
        """
        expected = (within,) if isinstance(within, ABTestPhase) else tuple(within)
        return await asyncio.shield(self._apply(expected, split, details, changes))

    async def _apply(
        self,
        expected: Sequence[ABTestPhase],
        split: Callable[[Split], Split | None] | None,
        details: Mapping[str, Any] | None,
        changes: dict[str, Any],
    ) -> bool:
        async with self._lock:
            if self.test.phase not in expected:
                raise Overtaken(f"A/B test {self.test.id} is {self.test.phase}")
            now_s = self._clock()
            test = replace(self.test, updated_at_s=now_s, **changes)
            event = None
            if test.phase is not self.test.phase or details is not None:
                event = _event(test, details or {})
            if test.phase is not self.test.phase:
                test = replace(test, phase_s=now_s)
            if split is None:
                await asyncio.to_thread(self._store.save_ab_test, test.to_doc(), None, event)
            else:

                async def save(table: RouteTable) -> None:
                    doc, table_doc = test.to_doc(), table.to_doc()
                    await asyncio.to_thread(self._store.save_ab_test, doc, table_doc, event)

                change = _table_change(test, split)
                await self._publisher.commit(change, self._ack_timeout_s, save)
            self.test = test
            self.changed.set()
            self.changed = asyncio.Event()
        if split is None:
            return True
        version = self._publisher.table.version
        return await self._publisher.wait(
            lambda listener: listener.version >= version, self._ack_timeout_s
        )


def absent(model: str) -> Share:
    """The share of a variant that is not loaded."""
    return Share(Target(model, 0, 0), 0.0, out=True)


def _table_change(
    test: ABTest, split: Callable[[Split], Split | None]
) -> Callable[[RouteTable], RouteTable]:
    """A change of the table, made from its split at that time: a lost model may change that."""

    def change(table: RouteTable) -> RouteTable:
        current = table.routes[test.task].split
        if current is None or current.salt != test.id:  # none yet, or that of another rollout
            variants = tuple(map(absent, test.spec.variants))
            current = Split(test.id, variants, decision=RoutingDecision.AB_TEST)
        return with_split(table, test.task, split(current))

    return change


def _event(test: ABTest, details: Mapping[str, Any]) -> dict[str, Any]:
    event = {"ab_test": test.id, "task": test.task, "phase": str(test.phase), **details}
    if test.reason:
        event |= {"reason": test.reason, "winner": (test.report or {}).get("winner")}
    return event
