"""Has every task decided about again and again, and acts on the decisions.

The learning actor decides (it owns the evidence), this loop acts (the controller owns the
routes). A decision is durable before it is acted on, and the swap carries its id: after a crash
of either, nothing is done twice and nothing is done without its reason on record.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Callable
from typing import Protocol

from tenacity import wait_fixed

from hotswap_ray.actors.cluster.background import Tasks, forever
from hotswap_ray.actors.controller.autoswap.decisions import DecisionLog
from hotswap_ray.actors.controller.autoswap.views import TaskViews
from hotswap_ray.actors.controller.models.pool import ModelPool
from hotswap_ray.actors.controller.models.publisher import Publisher
from hotswap_ray.actors.controller.swaps.requests import SwapRequests
from hotswap_ray.actors.controller.swaps.runner import SwapRunner
from hotswap_ray.config import Config
from hotswap_ray.core.autoswap.decide import Decision
from hotswap_ray.core.autoswap.view import Alarm, Finding, Look, ModelFacts, TaskView
from hotswap_ray.core.errors import HotswapError, StoreError
from hotswap_ray.core.routing.table import RouteTable, with_trials
from hotswap_ray.core.spec.price import Price
from hotswap_ray.core.swap.phases import Event, Phase, Swap
from hotswap_ray.store import Store

AUTOSWAP = "autoswap"
"""Who asked for a swap that the arbiter decided on."""
RETRY_S = 1.0
LONGEST_WAIT_S = 15.0  # below the time limit of a call of an actor
REFUSED_S = 60.0
"""Least time that a model is not considered after its swap failed."""
log = logging.getLogger("hotswap.autoswap")


class Decides(Protocol):
    """What the loop asks of the learnings."""

    async def look(
        self,
        views: list[TaskView],
        models: dict[str, ModelFacts],
        kept: frozenset[str],
        wait_s: float,
    ) -> Look:
        """Decide about every task, after an alarm or ``wait_s``. See ``LearningActor.look``."""
        ...

    async def take_prices(self, prices: dict[str, Price]) -> None:
        """Set the prices of all models. See ``LearningActor.take_prices``."""
        ...

    async def nudge(self) -> None:
        """End the wait of a look that is under way."""
        ...


class AutoswapLoop:
    """One loop for all tasks; while every mode is off it only sends the prices when woken.

    Args:
        config: The configuration.
        store: For events.
        pool: Models.
        publisher: Route table.
        runner: Open swaps.
        requests: How swaps are begun.
        views: The tasks as they are now.
        decisions: Where decisions are kept.
        learning: Makes the decisions.
        clock: Unix seconds.
    """

    def __init__(
        self,
        config: Config,
        store: Store,
        pool: ModelPool,
        publisher: Publisher,
        runner: SwapRunner,
        requests: SwapRequests,
        views: TaskViews,
        decisions: DecisionLog,
        learning: Decides,
        clock: Callable[[], float],
    ) -> None:
        self._config = config
        self._store = store
        self._pool = pool
        self._publisher = publisher
        self._runner = runner
        self._requests = requests
        self._views = views
        self._decisions = decisions
        self._learning = learning
        self._clock = clock
        self._automatic: dict[str, bool] = {}
        self._refused_until_s: dict[tuple[str, str], float] = {}
        self._wake = asyncio.Event()
        self._unloading: set[str] = set()
        self._alarms: list[Alarm] = []
        self._work = Tasks(log)

    def wake(self) -> None:
        """A mode was set or a model added: look at once."""
        self._wake.set()

    def ended(self, swap: Swap) -> None:
        """A swap has ended; a model that failed is not tried again at once."""
        self._automatic[swap.task] = swap.requested_by == AUTOSWAP
        if swap.requested_by == AUTOSWAP and swap.phase in (Phase.FAILED, Phase.ROLLED_BACK):
            pause_s = max(REFUSED_S, self._views.spec(swap.task).cooldown_s)
            self._refused_until_s[swap.task, swap.to_model] = self._clock() + pause_s
        self.wake()

    async def run(self) -> None:
        """Look for ever."""
        await forever(self.look, "autoswap", log, wait_fixed(RETRY_S), self._failed)

    def _failed(self, error: Exception) -> None:
        is_known = isinstance(error, HotswapError)
        text = f"waits: {error}" if is_known else f"failed: {type(error).__name__}: {error}"
        self._runner.last_error = f"autoswap {text}"[:500]

    def _record_error(self, text: str) -> None:
        self._runner.last_error = text[:500]
        log.warning(text)

    async def look(self) -> None:
        """One look at every task, and what follows from it.

        Waits for an alarm or ``look_s`` first; for a change of mode while all are off.
        """
        self._wake.clear()
        views = self._view_all()
        await self._allow_trials(views)
        if all(view.settings.mode == "off" for view in views):
            for view in views:
                await self._decisions.add(_off(view))
            # Guardrails and A/B tests need the prices, which otherwise come with a look.
            await self._learning.take_prices(
                {name: spec.price for name, spec in self._pool.specs.items()}
            )
            await self._wake.wait()
            return
        look_s = [self._views.spec(v.task).look_s for v in views if v.settings.mode != "off"]
        wait_s = min(*look_s, LONGEST_WAIT_S)
        answer = asyncio.ensure_future(
            self._learning.look(views, self._views.facts(), self._views.kept(), wait_s)
        )
        woken = asyncio.ensure_future(self._wake.wait())
        await asyncio.wait({answer, woken}, return_when=asyncio.FIRST_COMPLETED)
        woken.cancel()
        if not answer.done():
            await self._learning.nudge()
        result = await answer
        self._alarms += result.alarms
        while self._alarms:
            await self._add_drift_event(self._alarms[0])
            del self._alarms[0]
        for finding in result.findings:
            await self._act(finding)

    def _view_all(self) -> list[TaskView]:
        now_s = self._clock()
        for swap in self._runner.open():
            self._automatic[swap.task] = swap.requested_by == AUTOSWAP
        self._refused_until_s = {k: s for k, s in self._refused_until_s.items() if s > now_s}
        return [
            self._views.view(
                task,
                self._automatic.get(task, False),
                frozenset(model for t, model in self._refused_until_s if t == task),
            )
            for task in self._publisher.table.routes
        ]

    async def _allow_trials(self, views: list[TaskView]) -> None:
        """Publish which models may be tried, when that changed."""
        if not self._views.changed_trials(self._publisher.table, views):
            return

        def change(table: RouteTable) -> RouteTable:
            return with_trials(table, self._views.changed_trials(table, views))

        await self._publisher.commit(change, self._config.swap.ack_timeout_s)

    async def _act(self, finding: Finding) -> None:
        """Keep a decision, then do it."""
        decision = finding.decision
        if decision.action == "unload" and decision.model is not None:
            if self._may_unload(decision.model):
                await self._decisions.add(finding)
                self._work.spawn(self._unload(decision.model), f"unload:{decision.model}")
            return
        if self._views.is_swapping(decision.task) or not self._is_current(decision):
            return  # its swap is at work, or the route changed during the look
        acts = decision.action in ("promote", "roll_back") and decision.applies
        if acts and self._views.spec(decision.task).mode != "on":
            return  # the mode was set during the look
        if (
            acts
            and decision.action == "promote"
            and self._is_refused(decision.task, decision.model)
        ):
            return  # its swap failed during the look
        baking = self._views.open_swap(decision.task)
        if acts and baking is not None and decision.action == "promote":
            # The old model is warm until the bake ends; only an emergency ends it earlier.
            if decision.reason == "collapsed":
                await self._runner.signal(baking.swap_id, Event.PROMOTE)
            return
        if not acts:
            await self._decisions.add(finding)
            return
        swap_id = f"auto-{uuid.uuid4().hex[:12]}"
        await self._decisions.add(finding, swap_id)
        self._automatic[decision.task] = True
        try:
            if decision.action == "promote":
                assert decision.model is not None
                await self._requests.swap(
                    decision.task, decision.model, swap_id, requested_by=AUTOSWAP
                )
            else:
                await self._requests.rollback(decision.task, swap_id, AUTOSWAP)
        except StoreError:
            raise  # the store is away, the model is fine: decided again when it is back
        except HotswapError as error:
            await self._refused(decision, error)

    def _may_unload(self, model: str) -> bool:
        """Whether a model is still unused after the look, and not being unloaded already."""
        is_used = model not in self._pool.specs or model in self._views.kept()
        return not (is_used or model in self._unloading or self._is_refused("", model))

    def _is_refused(self, task: str, model: str | None) -> bool:
        return self._refused_until_s.get((task, model or ""), 0.0) > self._clock()

    def _is_current(self, decision: Decision) -> bool:
        route = self._publisher.table.routes.get(decision.task)
        return route is not None and route.model == decision.active

    async def _refused(self, decision: Decision, error: HotswapError) -> None:
        if decision.model is not None:
            until_s = self._clock() + REFUSED_S
            self._refused_until_s[decision.task, decision.model] = until_s
        event = {"task": decision.task, "model": decision.model, "error": str(error)[:300]}
        self._record_error(f"autoswap of {decision.task} to {decision.model} was refused: {error}")
        await asyncio.to_thread(self._store.add_event, "autoswap_refused", event, self._clock())

    async def _add_drift_event(self, alarm: Alarm) -> None:
        event = {"task": alarm.task, "model": alarm.model, "recent": round(alarm.recent, 4)}
        log.warning("results of %s at %s fell to %.2f", alarm.model, alarm.task, alarm.recent)
        await asyncio.to_thread(self._store.add_event, "drift", event, self._clock())

    async def _unload(self, model: str) -> None:
        self._unloading.add(model)
        try:
            await self._pool.unload(model)
        except HotswapError as error:
            self._refused_until_s["", model] = self._clock() + REFUSED_S
            self._record_error(f"model {model} is not unloaded: {error}")
        finally:
            self._unloading.discard(model)


def _off(view: TaskView) -> Finding:
    return Finding(Decision(view.task, "stay", "off", view.active), {})
