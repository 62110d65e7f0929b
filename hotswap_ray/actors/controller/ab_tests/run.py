"""One A/B test from begin to end; each phase can be entered again after a crash."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

from tenacity import wait_fixed

from hotswap_ray.actors.cluster.background import outlast
from hotswap_ray.actors.controller.ab_tests.models import ABTestModels
from hotswap_ray.actors.controller.ab_tests.state import RETRY_S, ABTestState, Overtaken, absent
from hotswap_ray.actors.controller.models.publisher import Publisher
from hotswap_ray.actors.controller.swaps.canary import Observes
from hotswap_ray.core.errors import EngineTimeout, EngineUnavailable, HotswapError, StoreError
from hotswap_ray.core.outcome import RoutingDecision
from hotswap_ray.core.rollout.ab_record import ABTest, ABTestPhase
from hotswap_ray.core.rollout.ab_report import history, report, weights_of
from hotswap_ray.core.rollout.guardrails import Seen
from hotswap_ray.core.routing.split import Share, Split
from hotswap_ray.core.routing.target import Target
from hotswap_ray.store import Store

TRIES = 5
"""Attempts to bring up a variant that cannot be reached, before it is dropped."""
OPEN = (ABTestPhase.PREPARING, ABTestPhase.SETTLING, ABTestPhase.RUNNING)
log = logging.getLogger("hotswap.ab_tests")


@dataclass(frozen=True, slots=True)
class ABTestParts:
    """What a run works with.

    Attributes:
        store: For the one commit that saves test and route table together.
        publisher: Route table.
        models: Brings variants up and gives them back.
        learning: What became of the requests.
        clock: Unix seconds.
        promote: Begins the swap to a winner; its id.
        ack_timeout_s: Longest wait for the ingress.
    """

    store: Store
    publisher: Publisher
    models: ABTestModels
    learning: Observes
    clock: Callable[[], float]
    promote: Callable[[ABTest, str], Awaitable[str]]
    ack_timeout_s: float


class ABTestRun:
    """Drives one test.

    Args:
        test: Its record, saved.
        parts: What it works with.
    """

    def __init__(self, test: ABTest, parts: ABTestParts) -> None:
        self.waits = ""
        self.state = ABTestState(
            *(test, parts.store, parts.publisher, parts.clock, parts.ack_timeout_s)
        )
        self._parts = parts
        self._change = self.state.change
        self._step: asyncio.Task[None] | None = None
        self._loads: dict[str, asyncio.Task[Target]] = {}
        self._tries: dict[str, int] = {}

    @property
    def test(self) -> ABTest:
        """The record as it is now."""
        return self.state.test

    async def run(self) -> None:
        """Return when the test has ended; wait while the store, Ray or the learnings are away."""
        while self.test.is_open:
            what = f"A/B test {self.test.id}"
            await outlast(self._act, what, log, wait_fixed(RETRY_S), self._failed)
            self.waits = ""

    async def _act(self) -> None:
        """One turn in the phase; it ends early when an operator ends the phase."""
        self._step = step = asyncio.create_task(getattr(self, f"_{self.test.phase}")())
        try:
            await asyncio.wait({step})
        finally:
            step.cancel()
        if not step.cancelled():
            with suppress(Overtaken):
                step.result()

    def _failed(self, error: Exception) -> None:
        self.waits = f"{type(error).__name__}: {error}"[:300]

    async def stop(self, reason: str, by: str, promote: str | None = None) -> None:
        """End the test, whatever it does just now. Raises ``Overtaken`` if it has ended."""
        await self._change(
            OPEN, phase=ABTestPhase.ENDING, reason=reason, promote=promote, details={"by": by}
        )
        if self._step is not None:
            self._step.cancel()

    async def undivided(self) -> None:
        """Return when the test does not divide the conversations any more."""
        while self.test.divides:
            await self.state.changed.wait()

    # --- the phases ---------------------------------------------------------------------

    async def _preparing(self) -> None:
        targets = {}
        for model in self.test.live:
            try:
                targets[model] = await self._parts.models.bring(self.test, model)
            except HotswapError as error:
                await self._give_up(ABTestPhase.PREPARING, model, error)
        if not targets:
            await self._end(ABTestPhase.PREPARING, {}, self._report({}))
            return
        split = Split(
            self.test.id,
            tuple(
                Share(targets[model], 0.0) if model in targets else absent(model)
                for model in self.test.spec.variants
            ),
            decision=RoutingDecision.AB_TEST,
        )
        await self._change(ABTestPhase.PREPARING, lambda _: split, phase=ABTestPhase.SETTLING)

    async def _settling(self) -> None:
        spent_s = max(0.0, self._parts.clock() - self.test.phase_s)
        await asyncio.sleep(max(0.0, self.test.spec.settle_s - spent_s))
        weights = weights_of(self.test.spec, self.test.control, {}, self.test.dropped)
        await self.state.divide(weights)

    async def _running(self) -> None:
        test, spec = self.test, self.test.spec
        route = self._parts.publisher.table.routes[test.task]
        if route.model != test.control:
            await self.stop("stopped", f"task {test.task} is served by {route.model}")
            return
        if route.split is not None and route.split.opening:  # a crash came between two commits
            await self._change(ABTestPhase.RUNNING, lambda split: split.moved(split.weights, {}))
        await self._repair()
        test = self.test
        observed = await self._parts.learning.observed(test.task, test.models, test.began_s)
        result = await asyncio.to_thread(self._report, observed)
        for comparison in result["comparisons"]:
            if comparison["dropped"] and comparison["model"] in test.live:
                await self._drop(ABTestPhase.RUNNING, comparison["model"], comparison["dropped"])
        if await self._end(ABTestPhase.RUNNING, observed, result):
            return
        await self._adapt(observed)
        await asyncio.sleep(spec.check_s)

    async def _ending(self) -> None:
        for task in self._loads.values():
            task.cancel()
        await self._change(ABTestPhase.ENDING, lambda _: None, phase=ABTestPhase.CLOSING)

    async def _closing(self) -> None:
        test = self.test
        if test.report is None or test.report["state"] != "ended":
            models = test.models
            observed = (
                await self._parts.learning.observed(test.task, models, test.began_s)
                if test.began_s
                else {}
            )
            await self._change(
                ABTestPhase.CLOSING, **await asyncio.to_thread(self._final, observed)
            )
        if test.promote and not (test.swap_id or test.error):
            try:
                swap_id = await self._parts.promote(self.test, test.promote)
                await self._change(ABTestPhase.CLOSING, swap_id=swap_id)
            except StoreError:
                raise
            except HotswapError as error:
                await self._change(ABTestPhase.CLOSING, error=f"{error.code}: {error}"[:300])
        await self._parts.models.give_back(self.test)
        await self._change(ABTestPhase.CLOSING, phase=ABTestPhase.ENDED)

    # --- what they do -------------------------------------------------------------------

    async def _repair(self) -> None:
        """Bring lost variants back while the test goes on; drop those that cannot be loaded."""
        for model in self.test.live:
            load = self._loads.get(model)
            if load is None:
                if not self._parts.models.is_there(self.test, model):
                    self._loads[model] = asyncio.create_task(
                        self._parts.models.bring(self.test, model)
                    )
                continue
            if not load.done():
                continue
            del self._loads[model]
            if load.cancelled():
                continue
            try:
                target = load.result()
            except HotswapError as error:
                with suppress(EngineUnavailable, EngineTimeout):  # tried again at the next check
                    await self._give_up(ABTestPhase.RUNNING, model, error)
                continue
            await self._change(ABTestPhase.RUNNING, partial(_restored, target))

    async def _give_up(self, phase: ABTestPhase, model: str, error: HotswapError) -> None:
        """Drop a variant that cannot be loaded; raise errors that are not its own."""
        if isinstance(error, StoreError):
            raise error
        if isinstance(error, EngineUnavailable | EngineTimeout):
            self._tries[model] = self._tries.get(model, 0) + 1
            if self._tries[model] < TRIES:
                raise error
        await self._drop(phase, model, f"{error.code}: {error}"[:300])

    async def _drop(self, phase: ABTestPhase, model: str, reason: str) -> None:
        """Take a variant out in one commit; its conversations go to the control."""
        log.warning("A/B test %s: %s is out: %s", self.test.id, model, reason)
        await self._change(
            phase,
            None if phase is ABTestPhase.PREPARING else lambda split: split.without(model),
            dropped={**self.test.dropped, model: reason},
            weights={**self.test.weights, model: 0.0},
            details={"dropped": model, "why": reason},
        )

    async def _end(
        self, phase: ABTestPhase, observed: Mapping[str, Seen], result: dict[str, Any]
    ) -> bool:
        """Save a result that is new; returns whether it ends the test."""
        if result["state"] == "ended":
            past = await asyncio.to_thread(history, self.test.spec, self.test.control, observed)
            winner = result["winner"] if self.test.spec.on_end == "promote" else None
            await self._change(
                phase,
                phase=ABTestPhase.ENDING,
                report=result,
                history=past,
                reason=result["reason"],
                promote=winner if winner != self.test.control else None,
            )
            return True
        if _without_clock(result) != _without_clock(self.test.report):
            await self._change(phase, report=result)
        return False

    def _report(self, observed: Mapping[str, Seen]) -> dict[str, Any]:
        test = self.test
        spent_s = self._parts.clock() - test.began_s if test.began_s else 0.0
        return report(test.spec, test.control, observed, test.dropped, spent_s).to_doc()

    def _final(self, observed: Mapping[str, Seen]) -> dict[str, Any]:
        """Report and history of a test that somebody ended."""
        test, result = self.test, self._report(observed)
        sentence = f"Stopped before its end, after {result['requests']:,} requests."
        result |= {"state": "ended", "reason": test.reason, "winner": None, "sentence": sentence}
        return {"report": result, "history": history(test.spec, test.control, observed)}

    async def _adapt(self, observed: Mapping[str, Seen]) -> None:
        test = self.test
        if not test.spec.adaptive or self._parts.clock() - test.weights_s < test.spec.adapt_s:
            return
        weights = await asyncio.to_thread(
            weights_of, test.spec, test.control, observed, test.dropped
        )
        if weights != test.weights:
            await self.state.divide(weights)


def _without_clock(result: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """A report without its clock, as the passing of time alone is not worth saving."""
    return None if result is None else {k: v for k, v in result.items() if k != "spent_s"}


def _restored(target: Target, split: Split) -> Split:
    return split.with_target(target)
