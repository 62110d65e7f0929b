"""The record of an open A/B test, and the one way to change it: saved with what it does.

One writer at a time, and each change of the route table is saved with the record in one
transaction. Who acts on a phase that is over (an operator ended it meanwhile) finds that out
before anything is done.
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
    """The test is not in the phase any more that this was about."""


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
        """Other weights, and the test runs; conversations that began elsewhere stay there."""
        phase = self.test.phase
        wanted = [weights.get(model, 0.0) for model in self.test.spec.variants]
        # Somebody may not know yet who has to wait: nothing is moved before that.
        opening = AsyncRetrying(retry=retry_if_result(not_), wait=wait_fixed(RETRY_S))
        await opening(self.change, phase, lambda split: split.opened(wanted))
        moving = self._publisher.moving(self.test.task)
        now_s = self._clock()
        began_s = self.test.began_s or now_s
        await self.change(
            phase,
            lambda split: split.moved(wanted, moving),
            tell={"weights": dict(weights)},
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
        tell: Mapping[str, Any] | None = None,
        **changes: Any,
    ) -> bool:
        """Save a change of the record, with one of the split if any; publish that.

        Shielded: a change that is in the store but not here would be undone by the next one.

        Args:
            within: Phases in which it holds.
            split: What becomes of the split.
            tell: For the event; a change of the phase has one anyway.
            **changes: Fields of the record.

        Returns:
            Whether every live ingress replica uses the split.

        Raises:
            Overtaken: The test is in another phase; nothing was changed.
        """
        expected = (within,) if isinstance(within, ABTestPhase) else tuple(within)
        return await asyncio.shield(self._changed(expected, split, tell, changes))

    async def _changed(
        self,
        expected: Sequence[ABTestPhase],
        split: Callable[[Split], Split | None] | None,
        tell: Mapping[str, Any] | None,
        changes: dict[str, Any],
    ) -> bool:
        async with self._lock:
            if self.test.phase not in expected:
                raise Overtaken(f"A/B test {self.test.id} is {self.test.phase}")
            now_s = self._clock()
            test = replace(self.test, updated_at_s=now_s, **changes)
            event = None
            if test.phase is not self.test.phase or tell is not None:
                event = _event(test, tell or {})
            if test.phase is not self.test.phase:
                test = replace(test, phase_s=now_s)
            if split is None:
                await asyncio.to_thread(self._store.save_ab_test, test.to_doc(), None, event)
            else:

                async def save(table: RouteTable) -> None:
                    doc, table_doc = test.to_doc(), table.to_doc()
                    await asyncio.to_thread(self._store.save_ab_test, doc, table_doc, event)

                change = _changing(test, split)
                await self._publisher.commit(change, self._ack_timeout_s, save)
            self.test = test
            self.changed.set()
            self.changed = asyncio.Event()
        if split is None:
            return True
        version = self._publisher.table.version
        return await self._publisher.wait(lambda said: said.version >= version, self._ack_timeout_s)


def absent(model: str) -> Share:
    """The place of a variant that is not there."""
    return Share(Target(model, 0, 0), 0.0, out=True)


def _changing(
    test: ABTest, split: Callable[[Split], Split | None]
) -> Callable[[RouteTable], RouteTable]:
    """The change of the table: of the split as it is then, which a lost model may have changed."""

    def change(table: RouteTable) -> RouteTable:
        found = table.routes[test.task].split
        if found is None or found.salt != test.id:  # the first, or the route is another's
            variants = tuple(map(absent, test.spec.variants))
            found = Split(test.id, variants, decision=RoutingDecision.AB_TEST)
        return with_split(table, test.task, split(found))

    return change


def _event(test: ABTest, tell: Mapping[str, Any]) -> dict[str, Any]:
    told = {"ab_test": test.id, "task": test.task, "phase": str(test.phase), **tell}
    if test.reason:
        told |= {"reason": test.reason, "winner": (test.report or {}).get("winner")}
    return told
