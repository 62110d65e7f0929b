"""The single writer of swaps, models and the route table, as operators and ingress see it.

A plain class; ``app.py`` makes it a named, detached actor. After a crash it reads the store
and goes on: every phase is saved before it is acted upon, and every action can be repeated.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from hotswap_ray.actors.fleet import Fleet
from hotswap_ray.actors.model_pool import ModelPool
from hotswap_ray.actors.publisher import Publisher
from hotswap_ray.actors.recovery import Recovery
from hotswap_ray.actors.swap_actions import Learning, SwapActions
from hotswap_ray.actors.swap_runner import SwapRunner
from hotswap_ray.config import Config
from hotswap_ray.config_checks import parse_model
from hotswap_ray.core.compatibility import check_compatibility
from hotswap_ray.core.errors import Conflict, NotFound, NothingToRollBack
from hotswap_ray.core.routes import Route, RouteTable, unknown
from hotswap_ray.core.spec import TaskSpec
from hotswap_ray.core.swap import Event, Phase, Swap, may
from hotswap_ray.store import Store


class SwapController:
    """Owns swaps, models and the route table.

    Args:
        config: The configuration; models loaded at run time are added from the store.
        store: Durable state.
        fleet: The cluster.
        learning: Learnings.
        clock: Unix seconds.
    """

    def __init__(
        self,
        config: Config,
        store: Store,
        fleet: Fleet,
        learning: Learning,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._config = config
        self._store = store
        self._clock = clock
        self._tasks: dict[str, TaskSpec] = dict(config.tasks)
        self._started: asyncio.Task[None] | None = None
        self._publisher = Publisher(
            RouteTable(), self._save_table, fleet.is_alive, fleet.ingress_count
        )
        self._pool = ModelPool(config, store, fleet, self._publisher, self._fallbacks)
        self._actions = SwapActions(
            config, store, fleet, self._pool, self._publisher, learning, self._tasks, clock
        )
        self._runner = SwapRunner(store, self._actions, clock)
        self._recovery = Recovery(
            config, store, self._pool, self._publisher, self._runner, self._tasks, clock
        )

    # --- start and recovery -------------------------------------------------------------

    async def start(self) -> None:
        """Read the store, adopt what runs, resume open swaps; once, whoever asks first."""
        if self._started is None or (self._started.done() and self._started.exception()):
            self._started = asyncio.create_task(self._recovery.run())
        await asyncio.shield(self._started)

    # --- for the ingress ----------------------------------------------------------------

    async def listen(self, replica: str, version: int) -> RouteTable:
        """Long-poll of an ingress replica: the table when it differs from ``version``."""
        await self.start()
        return await self._publisher.listen(replica, version)

    async def acknowledge(
        self, replica: str, version: int, connected: list[str], in_flight: dict[str, int]
    ) -> None:
        """See ``Publisher.acknowledge``."""
        self._publisher.acknowledge(replica, version, connected, in_flight)

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
        requested_by: str = "operator",
    ) -> dict[str, Any]:
        """Ask for a swap; returns its record at once, ``wait`` follows it.

        Args:
            task: Task whose model changes.
            model: Candidate.
            swap_id: Asking again with the same id returns the same swap.
            bake_s: Overrides ``swap.bake_s``.
            strategy: Overrides ``swap.strategy``.
            compatibility: ``strict`` or ``warn``; overrides ``swap.compatibility``.
            requested_by: Who asks, for the record.

        Raises:
            NotFound: Unknown task or model.
            Conflict: Another swap of the task is open, the model serves it already, or the
                model is being loaded or unloaded by somebody else.
        """
        await self.start()
        if swap_id is not None and (same := await self._same(swap_id)):
            return same
        current = self._route(task).model
        self._pool.spec(model)
        for other in self._runner.open():
            if other.task == task:
                raise Conflict(
                    f"swap {other.swap_id} of task {task!r} is {other.phase}; promote it, roll "
                    "it back or abort it first",
                    5.0,
                )
        if model == current:
            raise Conflict(f"model {model!r} serves task {task!r} already")
        busy = self._pool.generations.get(model)
        if busy is not None and busy.state in ("loading", "stopping"):
            raise Conflict(f"model {model!r} is {busy.state}; ask again when that is done", 5.0)
        source = self._pool.generations.get(current)
        overrides = {"strategy": strategy, "compatibility": compatibility}
        now_s = self._clock()
        swap = Swap(
            swap_id=swap_id or f"swap-{uuid.uuid4().hex[:12]}",
            task=task,
            from_model=current,
            from_generation=source.generation if source else 0,
            to_model=model,
            requested_by=requested_by,
            requested_at_s=now_s,
            updated_at_s=now_s,
            bake_s=self._config.swap.bake_s if bake_s is None else bake_s,
            facts={key: value for key, value in overrides.items() if value},
        )
        await self._runner.begin(swap)
        return swap.to_doc()

    async def rollback(self, task: str, swap_id: str | None = None) -> dict[str, Any]:
        """Give a task back to the model it had before.

        An open swap is rolled back, or aborted before its switch. Otherwise the last swap
        that succeeded is undone: by one commit if its old model is still warm.

        Raises:
            NotFound: Unknown task.
            NothingToRollBack: The task never changed its model, or went back already.
        """
        await self.start()
        if swap_id is not None and (same := await self._same(swap_id)):
            return same
        current = self._route(task).model
        for swap in self._runner.open():
            if swap.task == task:
                event = Event.ROLLBACK if may(swap.phase, Event.ROLLBACK) else Event.ABORT
                return (await self._runner.signal(swap.swap_id, event)).to_doc()
        ended = map(Swap.from_doc, await asyncio.to_thread(self._store.load_swaps, task))
        last = next(
            (s for s in ended if s.phase is Phase.SUCCEEDED and s.to_model == current), None
        )
        if last is None or last.from_model not in self._pool.specs:
            raise NothingToRollBack(f"task {task!r} has no earlier model to go back to")
        now_s = self._clock()
        undo = replace(
            last,
            swap_id=swap_id or f"undo-{uuid.uuid4().hex[:12]}",
            phase=Phase.ROLLING_BACK,
            reason=f"undoes {last.swap_id}",
            requested_at_s=now_s,
            updated_at_s=now_s,
            seconds={},
            facts={},
        )
        await self._runner.begin(undo)
        return undo.to_doc()

    async def signal(self, swap_id: str, event: str) -> dict[str, Any]:
        """``abort``, ``promote`` or ``rollback`` an open swap. See ``SwapRunner.signal``."""
        await self.start()
        return (await self._runner.signal(swap_id, Event(event))).to_doc()

    async def wait(self, swap_id: str, timeout_s: float, until: str = "end") -> dict[str, Any]:
        """The record of a swap once it has ended or switched. See ``SwapRunner.wait``."""
        await self.start()
        return (await self._runner.wait(swap_id, timeout_s, until)).to_doc()

    async def swaps(self, task: str | None = None, limit: int = 50) -> list[dict[str, Any]]:
        """Latest swaps first."""
        return await asyncio.to_thread(self._store.load_swaps, task, False, limit)

    async def journal(self, swap_id: str) -> list[dict[str, Any]]:
        """Every phase a swap entered, in order, with its time."""
        await self._runner.find(swap_id)
        return await asyncio.to_thread(self._store.load_journal, swap_id)

    async def _same(self, swap_id: str) -> dict[str, Any] | None:
        try:
            return (await self._runner.find(swap_id)).to_doc()
        except NotFound:
            return None

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
        await self._pool.load(model)
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

    def _describe(self, model: str) -> dict[str, Any]:
        return next(row for row in self._pool.describe() if row["model"] == model)

    # --- what people look at ------------------------------------------------------------

    async def check(self, task: str, model: str) -> dict[str, Any]:
        """Compatibility of a model with a task, without changing anything."""
        await self.start()
        current = self._pool.specs.get(self._route(task).model)
        report = check_compatibility(
            self._tasks[task],
            self._pool.spec(model),
            current,
            measured_memory_bytes=self._pool.measured_bytes.get(model, 0),
        )
        strict = self._config.swap.compatibility == "strict"
        return {"accepted": report.accepts(strict), "gaps": [str(gap) for gap in report.gaps]}

    async def status(self) -> dict[str, Any]:
        """Routes, models, open swaps, ingress replicas and the last trouble."""
        await self.start()
        table = self._publisher.table
        return {
            "version": table.version,
            "default_task": table.default_task,
            "tasks": {
                task: {
                    "model": route.model,
                    "generation": route.active.generation if route.active else None,
                    "fallback": self._tasks[task].fallback,
                    "held": route.held,
                }
                for task, route in table.routes.items()
            },
            "models": self._pool.describe(),
            "open_swaps": [swap.to_doc() for swap in self._runner.open()],
            "ingress": {
                name: {"version": said.version, "in_flight": sum(said.in_flight.values())}
                for name, said in self._publisher.listeners.items()
            },
            "last_error": self._runner.last_error,
        }

    async def events(self, after_id: int = 0, limit: int = 100) -> list[dict[str, Any]]:
        """Events after an id, oldest first."""
        return await asyncio.to_thread(self._store.load_events, after_id, limit)

    async def _save_table(self, table: RouteTable) -> None:
        await asyncio.to_thread(self._store.save_table, table.to_doc(), table.version)

    def _fallbacks(self) -> dict[str, str | None]:
        return {task: spec.fallback for task, spec in self._tasks.items()}

    def _route(self, task: str) -> Route:
        if task not in self._publisher.table.routes:
            raise NotFound(unknown("task", task, self._publisher.table.routes))
        return self._publisher.table.routes[task]
