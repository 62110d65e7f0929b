"""The start of the controller: read the store, adopt what runs, go on.

The store has what should run, Serve what does. The table is restored before anything slow
begins, because ingress replicas wait for it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any

from pydantic import ValidationError
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, wait_fixed

from hotswap_ray.actors.cluster.background import Tasks
from hotswap_ray.actors.controller.models.pool import ModelPool
from hotswap_ray.actors.controller.models.publisher import Publisher
from hotswap_ray.actors.controller.swaps.runner import SwapRunner
from hotswap_ray.config import Config
from hotswap_ray.core.errors import HotswapError
from hotswap_ray.core.routing.table import Route, RouteTable
from hotswap_ray.core.spec.task import ModelSpec, TaskSpec
from hotswap_ray.core.swap.history import KEPT_WARM, kept_warm
from hotswap_ray.core.swap.phases import Phase, Swap
from hotswap_ray.store import Store

RELOAD_S = 5.0
log = logging.getLogger("hotswap.recovery")


class Recovery:
    """Brings a new controller to the state of the last one.

    Args:
        config: The configuration; models loaded at run time are added from the store.
        store: Durable state.
        pool: Models.
        publisher: Route table.
        runner: Swaps.
        tasks: Task specs by id.
        clock: Unix seconds.
        tested: Models that open A/B tests need.
    """

    def __init__(
        self,
        config: Config,
        store: Store,
        pool: ModelPool,
        publisher: Publisher,
        runner: SwapRunner,
        tasks: dict[str, TaskSpec],
        clock: Callable[[], float],
        tested: Callable[[], set[str]] = set,
    ) -> None:
        self._config = config
        self._store = store
        self._pool = pool
        self._publisher = publisher
        self._runner = runner
        self._tasks = tasks
        self._clock = clock
        self._tested = tested
        self._work = Tasks(log)

    async def run(self) -> None:
        """Return when the table is right; loading and swaps go on in the background.

        Raises:
            StoreError: The store cannot be read; calling again starts over.
        """
        await self._read_models()
        await self._read_table()
        for model in self._config.models.values():
            await self._pool.register(model, "config")
        swaps = [Swap.from_doc(doc) for doc in await self._load_swaps(open_only=True)]
        for swap in swaps:
            if swap.task in self._tasks and {swap.from_model, swap.to_model} <= {*self._pool.specs}:
                self._runner.adopt(swap)
            else:  # it goes on when the configuration has its task and models again
                await self._record_trouble(
                    "swap_unknown", f"swap {swap.swap_id}: its task or a model is not configured"
                )
        saved = [Swap.from_doc(doc) for doc in await self._load_swaps(open_only=False)]
        warm = await self._kept_warm(saved)
        lost, surplus = await self._pool.reconcile(self._wanted())
        lost -= warm  # not loaded again, since others may need the room
        surplus |= self._rolled_back(saved)
        swapping = {m for swap in self._runner.open() for m in (swap.from_model, swap.to_model)}
        busy = {swap.task for swap in self._runner.open()}
        routes = self._publisher.table.routes.items()
        serving = {route.model for task, route in routes if task not in busy}
        for name in sorted(((self._wanted() | lost) - swapping) | serving):
            self._work.spawn(self._keep_loading(name, lost), f"load:{name}")
        for name in sorted(surplus - self._wanted()):
            self._work.spawn(self._keep_unloading(name), f"unload:{name}")
        for swap in self._runner.open():
            self._work.spawn(self._resume(swap), f"resume:{swap.swap_id}")

    async def _read_models(self) -> None:
        for model_id, text, source in await asyncio.to_thread(self._store.load_models):
            if source != "runtime" or model_id in self._config.models:
                continue
            try:
                self._pool.specs[model_id] = ModelSpec.model_validate_json(text)
            except ValidationError as error:  # written by another version
                await self._record_trouble("model_unknown", f"model {model_id}: {error}")

    async def _read_table(self) -> None:
        saved = await asyncio.to_thread(self._store.load_table)
        table = RouteTable.from_doc(saved) if saved else RouteTable()
        models = {*self._pool.specs, *self._config.models}
        routes = {}
        for task, spec in self._tasks.items():
            route = table.routes.get(task)
            # A swap outlives a restart; a model that left the configuration does not.
            routes[task] = route if route and route.model in models else Route(spec.model)
        self._publisher.table = replace(
            table,
            routes=routes,
            default_task=self._config.default_task,
            models={model: target for model, target in table.models.items() if model in models},
        )

    def _rolled_back(self, swaps: Sequence[Swap]) -> set[str]:
        """Candidates of swaps that were rolled back just before the crash."""
        models = set()
        for swap in swaps:
            generation = self._pool.generations.get(swap.to_model)
            if (
                swap.phase is Phase.ROLLED_BACK
                and KEPT_WARM not in swap.facts
                and generation is not None
                and generation.generation == swap.to_generation
                and not self._pool.specs[swap.to_model].resident
            ):
                models.add(swap.to_model)
        return models

    async def _kept_warm(self, swaps: Sequence[Swap]) -> set[str]:
        """Models that only the rollback window holds, as they were loaded before this start."""
        docs = [doc["value"] for doc in await asyncio.to_thread(self._store.load_generations)]
        loaded = {(doc["model"], doc["generation"]) for doc in docs}
        return {model for _, model, number in kept_warm(swaps) if (model, number) in loaded}

    async def _load_swaps(self, open_only: bool) -> list[dict[str, Any]]:
        return await asyncio.to_thread(self._store.load_swaps, None, open_only)

    async def _resume(self, swap: Swap) -> None:
        """Run an open swap on, once the model that serves is back."""
        route = self._publisher.table.routes[swap.task]
        if not self._pool.is_ready(route.model) and not route.held:
            await self._keep_loading(route.model)
        self._runner.resume(swap)

    def _wanted(self) -> set[str]:
        """Models that must be loaded: of routes, fallbacks, residents, open swaps and A/B tests."""
        models = {route.model for route in self._publisher.table.routes.values()}
        models |= {task.fallback for task in self._tasks.values() if task.fallback}
        models |= {spec.id for spec in self._pool.specs.values() if spec.resident}
        for swap in self._runner.open():
            models |= {swap.from_model, swap.to_model}
        return (models | self._tested()) & set(self._pool.specs)

    async def _keep_loading(self, model: str, lost: set[str] | None = None) -> None:
        """Load, and again after each failure while it is wanted; each failure is an event."""

        async def load() -> None:
            if model in self._wanted() | (lost or set()):
                await self._pool.load(model)

        await self._keep_trying(load, "load_failed", model)

    async def _keep_unloading(self, model: str) -> None:
        async def unload() -> None:
            if model not in self._wanted():
                await self._pool.unload(model)

        await self._keep_trying(unload, "unload_failed", model)

    async def _keep_trying(
        self, step: Callable[[], Awaitable[None]], kind: str, model: str
    ) -> None:
        async def record(state: RetryCallState) -> None:
            error = state.outcome and state.outcome.exception()
            await self._record_trouble(kind, f"model {model}: {error}", model=model)

        retrying = AsyncRetrying(
            retry=retry_if_exception_type(HotswapError),
            wait=wait_fixed(RELOAD_S),
            before_sleep=record,
        )
        await retrying(step)

    async def _record_trouble(self, kind: str, text: str, **details: Any) -> None:
        """Show a problem in ``status`` and, if the store can save it, among the events."""
        self._runner.last_error = text[:500]
        log.warning("%s: %s", kind, text)
        try:
            await asyncio.to_thread(
                self._store.add_event, kind, {**details, "error": text[:300]}, self._clock()
            )
        except HotswapError as error:
            log.error("event %s was not saved: %s", kind, error)
