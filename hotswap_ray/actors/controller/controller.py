"""The single writer of swaps, models and the route table, as operators and ingress see it.

A plain class; ``app.py`` makes it a named, detached actor. After a crash it reads the store
and goes on: every phase is saved before it is acted upon, and every action can be repeated.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Collection
from typing import Any

from hotswap_ray.actors.cluster import judge_watchdog
from hotswap_ray.actors.cluster.background import Tasks
from hotswap_ray.actors.cluster.fleet import Fleet
from hotswap_ray.actors.controller.ab_tests.registry import ABTests
from hotswap_ray.actors.controller.autoswap.decisions import DecisionLog
from hotswap_ray.actors.controller.autoswap.loop import AutoswapLoop
from hotswap_ray.actors.controller.autoswap.views import TaskViews
from hotswap_ray.actors.controller.bench.bench import Bench
from hotswap_ray.actors.controller.calls.ab_tests import ABTestCalls
from hotswap_ray.actors.controller.calls.bench import BenchCalls
from hotswap_ray.actors.controller.calls.decisions import DecisionCalls
from hotswap_ray.actors.controller.calls.queries import ControllerQueries
from hotswap_ray.actors.controller.calls.rollbacks import RollbackCalls
from hotswap_ray.actors.controller.calls.schedules import ScheduleCalls
from hotswap_ray.actors.controller.learning_port import LearningPort
from hotswap_ray.actors.controller.models.pool import ModelPool
from hotswap_ray.actors.controller.models.publisher import Publisher
from hotswap_ray.actors.controller.models.retention import Retention
from hotswap_ray.actors.controller.recovery import Recovery
from hotswap_ray.actors.controller.schedules.scheduler import Scheduler
from hotswap_ray.actors.controller.schedules.swaps import ScheduledSwaps
from hotswap_ray.actors.controller.swaps.bake import Bake
from hotswap_ray.actors.controller.swaps.canary import Canary
from hotswap_ray.actors.controller.swaps.dry_run import SwapPlan
from hotswap_ray.actors.controller.swaps.learnings import SwapLearning
from hotswap_ray.actors.controller.swaps.phases import SwapActions
from hotswap_ray.actors.controller.swaps.probing import Probing
from hotswap_ray.actors.controller.swaps.requests import SwapRequests
from hotswap_ray.actors.controller.swaps.rollbacks import Rollbacks
from hotswap_ray.actors.controller.swaps.runner import SwapRunner
from hotswap_ray.actors.controller.swaps.webhooks import Webhooks
from hotswap_ray.config import Config
from hotswap_ray.config.checks import parse_model
from hotswap_ray.core.answers.judge_messages import Judging
from hotswap_ray.core.errors import Conflict, InvalidRequest
from hotswap_ray.core.routing.table import RouteTable
from hotswap_ray.core.spec.autoswap import AutoswapMode
from hotswap_ray.core.spec.task import TaskSpec
from hotswap_ray.core.swap.phases import Event, Swap
from hotswap_ray.store import Store

OPERATOR_EVENTS = tuple(map(str, Event))[2:]  # all but DONE and FAILED
log = logging.getLogger("hotswap.controller")


class SwapController(
    ControllerQueries, BenchCalls, DecisionCalls, ScheduleCalls, ABTestCalls, RollbackCalls
):
    """Owns swaps, models and the route table.

    Args:
        config: The configuration; models loaded at run time are added from the store.
        store: Durable state.
        fleet: The cluster.
        learning: The learning actor, or a proxy of it.
        clock: Unix seconds.
        on_swap_end: Called with each swap that has ended.
        judge: Judges answers to golden prompts; the actor that ``app.py`` starts when ``None``.
    """

    def __init__(
        self,
        config: Config,
        store: Store,
        fleet: Fleet,
        learning: LearningPort,
        clock: Callable[[], float] = time.time,
        on_swap_end: Callable[[Swap], None] = lambda swap: None,
        judge: Judging | None = None,
    ) -> None:
        self._config = config
        self._store = store
        self._clock = clock
        self._tasks: dict[str, TaskSpec] = dict(config.tasks)
        self._started: asyncio.Task[None] | None = None
        self._publisher = Publisher(
            RouteTable(), self._save_table, fleet.is_alive, fleet.ingress_count, self._load_table
        )
        self._pool = ModelPool(config, store, fleet, self._publisher, self._fallbacks)
        if judge is None:
            limit_s = config.learning.check_timeout_s
            judge = judge_watchdog.connect(config.cluster.namespace, limit_s).judge
        self._probing = Probing(fleet, store, config.swap.probe_timeout_s)
        self._learning = SwapLearning(store, self._pool, learning, clock)
        self._retention = Retention(
            *(config, store, fleet, self._pool),
            lambda: self._runner.open(),
            lambda: self._ab_tests.needed(),
        )
        self._actions = SwapActions(
            config,
            store,
            fleet,
            self._pool,
            self._publisher,
            self._learning,
            self._tasks,
            clock,
            judge,
            Canary(
                *(config, store, self._pool, self._publisher, learning, clock),
                lambda swap: self._runner.update(swap),
            ),
            Bake(
                *(config, fleet, self._pool, learning, clock),
                lambda swap: self._runner.update(swap),
            ),
            self._retention,
        )
        webhooks = Webhooks(config.webhooks, store, clock)
        self._runner = SwapRunner(store, self._actions, webhooks, clock, self._swap_ended)
        self._on_swap_end = on_swap_end
        self._requests = SwapRequests(
            *(config, store, self._pool, self._publisher, self._runner, clock),
            lambda task: self._ab_tests.refusal(task),
        )
        self._ab_tests = ABTests(
            *(config, store, self._pool, self._publisher, self._runner, self._requests),
            *(self._actions, learning, clock),
        )
        self._rollbacks = Rollbacks(
            *(config, store, self._pool, self._publisher, self._runner, self._requests, clock)
        )
        self._plan = SwapPlan(
            *(fleet, self._pool, self._requests, self._runner, self._actions, self._learning)
        )
        self._recovery = Recovery(
            *(config, store, self._pool, self._publisher, self._runner, self._tasks, clock),
            self._ab_tests.needed,
        )
        self._bench = Bench(
            *(config, store, self._pool, fleet, self._publisher, learning, judge, clock),
            *(self._tasks, self._runner.open),
        )
        self._modes: dict[str, AutoswapMode] = {}
        self._views = TaskViews(
            *(config, self._tasks, self._pool, self._publisher, self._runner.open, self._modes),
            self._ab_tests.open,
        )
        self._decisions = DecisionLog(store, clock)
        self._autoswap = AutoswapLoop(
            *(config, store, self._pool, self._publisher, self._runner, self._requests),
            *(self._views, self._decisions, learning, clock),
        )
        self._scheduler = Scheduler(
            store, clock, ScheduledSwaps(self._publisher, self._runner, self._requests, learning)
        )
        self._loops = Tasks(log)

    # --- start and recovery -------------------------------------------------------------

    async def start(self) -> None:
        """Read the store, adopt what runs, resume open swaps; done once, by the first call."""
        if self._started is None or (self._started.done() and self._started.exception()):
            self._started = asyncio.create_task(self._start())
        await asyncio.shield(self._started)

    async def _start(self) -> None:
        await self._ab_tests.load()
        await self._recovery.run()
        await self._load_modes()
        await self._decisions.load()
        await self._scheduler.load(self._config.schedules)
        await self._ab_tests.resume()
        self._loops.spawn(self._autoswap.run(), "autoswap")
        self._loops.spawn(self._bench.run_schedule(), "bench schedule")
        self._loops.spawn(self._scheduler.run(), "schedules")

    def _swap_ended(self, swap: Swap) -> None:
        self._autoswap.ended(swap)
        self._scheduler.wake()
        self._on_swap_end(swap)

    # --- for the ingress ----------------------------------------------------------------

    async def listen(self, replica: str, version: int) -> RouteTable:
        """Long-poll of an ingress replica: the table when it differs from ``version``."""
        await self.start()
        return await self._publisher.listen(replica, version)

    async def acknowledge(
        self,
        replica: str,
        version: int,
        connected: list[str],
        in_flight: dict[str, int],
        moving: dict[str, dict[int, int]] | None = None,
        calling: Collection[str] = (),
    ) -> None:
        """Take the report of an ingress replica. See ``Publisher.acknowledge``."""
        self._publisher.acknowledge(replica, version, connected, in_flight, moving, calling)

    # --- swaps --------------------------------------------------------------------------

    async def swap(
        self,
        task: str,
        model: str,
        swap_id: str | None = None,
        *,
        bake_s: float | None = None,
        strategy: str | None = None,
        compatibility: str | None = None,
        canary: str | None = None,
        requested_by: str = "operator",
        if_match: str | None = None,
        dry_run: bool = False,
    ) -> dict[str, Any]:
        """Ask for a swap; returns its record at once, ``wait`` follows it.

        Args:
            task: Task whose model changes.
            model: Candidate.
            swap_id: Asking again with the same id returns the same swap.
            bake_s: Overrides ``swap.bake_s``.
            strategy: Overrides ``swap.strategy``.
            compatibility: ``strict`` or ``warn``; overrides ``swap.compatibility``.
            canary: Percentages of the conversations, for example ``5,25``; overrides
                ``swap.canary.steps``.
            requested_by: Who asks, for the record.
            if_match: Etag of the task's latest swap as the caller saw it.
            dry_run: Change nothing; see ``SwapPlan.plan`` for what is returned instead.

        Raises:
            NotFound: Unknown task or model.
            PreconditionFailed: The task's latest swap is not as ``if_match`` says.
            InvalidRequest: An option that does not exist or is out of range.
            Conflict: Another swap of the task is open, the model serves it already, or the
                model is being loaded or unloaded by somebody else.
        """
        await self.start()
        ask = self._plan.plan if dry_run else self._requests.swap
        return await ask(
            task,
            model,
            swap_id,
            bake_s=bake_s,
            strategy=strategy,
            compatibility=compatibility,
            canary=canary,
            requested_by=requested_by,
            if_match=if_match,
        )

    async def retry(self, swap_id: str, attempt: int | None = None) -> dict[str, Any]:
        """Try a swap again that failed or was rolled back: a new one with the same settings.

        Args:
            swap_id: The old one.
            attempt: Which retry it is, 1 and up; asking again with it changes nothing. Without
                one: the retry that is open or succeeded, else the next.

        Returns:
            The record of the new swap; its id is the old one's and ``-r<attempt>``.

        Raises:
            NotFound: Unknown swap, or its model is gone.
            IllegalTransition: It is open, succeeded, or was a rollback.
            Conflict: As for ``swap``.
        """
        await self.start()
        return await self._requests.retry(swap_id, attempt)

    async def signal(self, swap_id: str, event: str, if_match: str | None = None) -> dict[str, Any]:
        """An operator's event for an open swap, as ``abort``. See ``SwapRunner.signal``."""
        await self.start()
        if event not in OPERATOR_EVENTS:
            raise InvalidRequest(f"event {event!r}: expected one of {', '.join(OPERATOR_EVENTS)}")
        swap = await self._runner.signal(swap_id, Event(event), if_match=if_match)
        return swap.to_doc()

    async def wait(self, swap_id: str, timeout_s: float, until: str = "end") -> dict[str, Any]:
        """The record of a swap once it has ended or switched. See ``SwapRunner.wait``."""
        await self.start()
        return (await self._runner.wait(swap_id, timeout_s, until)).to_doc()

    # --- models -------------------------------------------------------------------------

    async def load(self, model: str, spec: dict[str, Any] | None = None) -> dict[str, Any]:
        """Load (or wake) a model; with ``spec`` one that the configuration does not have.

        Raises:
            NotFound: Unknown model or engine.
            ConfigError: The spec or its engine options are wrong.
            InsufficientResources: No room, after a bounded wait.
            EngineLoadFailed: The engine did not come up; nothing is left behind.
        """
        await self.start()
        if spec is not None:
            await self._pool.register(parse_model(model, spec), "runtime")
            self._autoswap.wake()  # the learnings need its price
        await self._pool.load(model)
        self._bench.keep(model)
        return self._describe(model)

    async def unload(self, model: str) -> dict[str, Any]:
        """Let a model's requests end and delete it. Raises ``Conflict`` if a task needs it."""
        await self.start()
        self._refuse_if_swapping(model)
        await self._pool.unload(model)
        return self._describe(model)

    async def sleep(self, model: str) -> dict[str, Any]:
        """Give a model's memory back; ``load`` wakes it. Raises ``Conflict``, ``NotSupported``."""
        await self.start()
        self._refuse_if_swapping(model)
        await self._pool.sleep(model)
        return self._describe(model)

    def _refuse_if_swapping(self, model: str) -> None:
        for swap in self._runner.open():
            if model in (swap.from_model, swap.to_model):
                raise Conflict(f"model {model!r} is part of open swap {swap.swap_id}", 5.0)
        for test in self._ab_tests.open():
            if test.divides and model in test.models:
                raise Conflict(f"model {model!r} is part of open A/B test {test.id}", 5.0)

    def _describe(self, model: str) -> dict[str, Any]:
        return next(row for row in self._models() if row["model"] == model)

    async def _load_table(self) -> RouteTable | None:
        saved = await asyncio.to_thread(self._store.load_table)
        return RouteTable.from_doc(saved) if saved else None

    async def _save_table(self, table: RouteTable) -> None:
        await asyncio.to_thread(self._store.save_table, table.to_doc(), table.version)

    def _fallbacks(self) -> dict[str, str | None]:
        return {task: spec.fallback for task, spec in self._tasks.items()}
