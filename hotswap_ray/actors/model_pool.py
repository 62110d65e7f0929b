"""Models that are loaded: their specs, their generations, and how one comes and goes.

Single writer of generations. A generation is saved before its application is asked for,
so nothing can run that the store does not know; it is published after it answered, and
taken out of the table before it is taken away.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from hotswap_ray.actors.fleet import GONE, AppState, Fleet, room_of
from hotswap_ray.actors.publisher import Publisher
from hotswap_ray.config import Config
from hotswap_ray.core.errors import (
    Conflict,
    EngineError,
    EngineLoadFailed,
    HotswapError,
    InsufficientResources,
    NotFound,
)
from hotswap_ray.core.routes import Target, app_name, unknown, with_model
from hotswap_ray.core.spec import ModelSpec
from hotswap_ray.engines.base import load_engine_class, parse_options
from hotswap_ray.store import Store

POLL_S = 0.1  # a status call of Serve costs tens of milliseconds of CPU
DELETE_S = 120.0


@dataclass(frozen=True, slots=True)
class Generation:
    """One load of a model.

    Attributes:
        model: Model id.
        generation: Load number, from 1, never used again.
        state: ``loading``, ``ready``, ``asleep`` or ``stopping``.
        memory_bytes: Measured when it became ready; 0 before.
        load_s: Seconds its engine took to load.
    """

    model: str
    generation: int
    state: str = "loading"
    memory_bytes: int = 0
    load_s: float = 0.0

    @property
    def app(self) -> str:
        """Its Serve application."""
        return app_name(self.model, self.generation)


class ModelPool:
    """Loads, unloads, and puts to sleep, one operation a model at a time.

    Args:
        config: Limits and timeouts.
        store: Where specs and generations survive.
        fleet: The cluster.
        publisher: The route table.
        fallbacks: Fallback model per task, for the table.
    """

    def __init__(
        self,
        config: Config,
        store: Store,
        fleet: Fleet,
        publisher: Publisher,
        fallbacks: Callable[[], dict[str, str | None]],
    ) -> None:
        self.specs: dict[str, ModelSpec] = {}
        self.generations: dict[str, Generation] = {}
        self.measured_bytes: dict[str, int] = {}
        self._config = config
        self._store = store
        self._fleet = fleet
        self._publisher = publisher
        self._fallbacks = fallbacks
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._loading = asyncio.Semaphore(config.swap.concurrent_loads)

    def spec(self, model: str) -> ModelSpec:
        """The spec of a known model.

        Raises:
            NotFound: No model has this id.
        """
        if model not in self.specs:
            raise NotFound(unknown("model", model, self.specs))
        return self.specs[model]

    async def register(self, spec: ModelSpec, source: Literal["config", "runtime"]) -> None:
        """Make a model known; its engine checks its options now, not at the first load.

        Raises:
            NotFound: Unknown engine.
            ConfigError: Options the engine refuses.
            Conflict: The model is loaded with another spec.
        """
        parse_options(load_engine_class(spec.engine), spec)
        if spec.id in self.generations and self.specs.get(spec.id) not in (None, spec):
            raise Conflict(f"model {spec.id!r} is loaded with other settings; unload it first")
        if source == "runtime":  # what the file says is read from the file, secrets included
            await asyncio.to_thread(self._store.save_model, spec.model_dump_json(), spec.id, source)
        self.specs[spec.id] = spec
        if spec.id not in self._publisher.table.models:
            await self._publish(spec.id, None)

    def target(self, generation: Generation) -> Target:
        """What the route table says of a generation.

        Each ingress replica gets its share of what the model may have at work and queued.
        """
        spec = self.spec(generation.model)
        most = (
            spec.resources.autoscale.max_replicas
            if spec.resources.autoscale
            else (spec.resources.replicas)
        )
        total = spec.max_ongoing_requests * most + spec.max_queued_requests
        share = math.ceil(total / self._config.server.ingress_replicas)
        return Target(spec.id, generation.generation, share, spec.context_tokens)

    def is_ready(self, model: str) -> bool:
        """Whether a model is loaded and awake."""
        return model in self.generations and self.generations[model].state == "ready"

    def can_sleep(self, model: str) -> bool:
        """Whether a model's engine can give memory back without ending."""
        spec = self.spec(model)
        return load_engine_class(spec.engine).can_sleep(spec)

    def users(self, model: str) -> list[str]:
        """Tasks that ``model`` serves now."""
        return [t for t, route in self._publisher.table.routes.items() if route.model == model]

    def fallback_users(self, model: str) -> list[str]:
        """Tasks that ``model`` is the fallback of."""
        return [task for task, name in self._fallbacks().items() if name == model]

    async def load(self, model: str) -> Generation:
        """Load, or wake, a model and publish it; at once if it is ready.

        Raises:
            NotFound: Unknown model.
            InsufficientResources: The cluster lacks room, after a bounded wait.
            EngineLoadFailed: The engine gave up, hung, or died; nothing is left behind.
        """
        spec = self.spec(model)
        async with self._locks[model]:
            current = self.generations.get(model)
            if current is not None and current.state == "ready":
                return current
            if current is not None and current.state == "asleep":
                return await self._wake(current)
            async with self._loading:
                return await self._load(spec, current)

    async def _load(self, spec: ModelSpec, begun: Generation | None) -> Generation:
        await self.wait_for_room(spec)
        if begun is None:
            number = await asyncio.to_thread(self._store.next_generation, spec.id)
            begun = Generation(spec.id, number)
            await self._save(begun)
        try:
            await self._fleet.deploy(spec, begun.generation, self._config.swap.load_nice)
            await self._until_running(spec, begun)
            seen = await self._fleet.call(begun.app, "ping")
        except BaseException:
            # Also on cancellation (an abort): whatever was started must not stay.
            await asyncio.shield(self._remove(begun))
            raise
        self.measured_bytes[spec.id] = seen["memory_bytes"]
        ready = replace(
            begun, state="ready", memory_bytes=seen["memory_bytes"], load_s=round(seen["load_s"], 3)
        )
        await self._save(ready)
        await self._publish(spec.id, self.target(ready))
        return ready

    async def wait_for_room(self, spec: ModelSpec) -> None:
        """Wait, bounded, until the cluster has room for a model.

        Raises:
            InsufficientResources: It has not, and what is missing.
        """
        deadline = time.monotonic() + self._config.swap.load_wait_s
        need = room_of(spec, self.measured_bytes.get(spec.id, 0))
        while lacks := (await self._fleet.free()).lacks(need):
            if time.monotonic() >= deadline:
                raise InsufficientResources(
                    f"no room for model {spec.id!r} after {self._config.swap.load_wait_s:g} s: "
                    f"{'; '.join(lacks)}",
                    30.0,
                )
            await asyncio.sleep(0.5)

    async def _until_running(self, spec: ModelSpec, generation: Generation) -> None:
        deadline = time.monotonic() + spec.load_timeout_s
        while True:
            state = (await self._fleet.states()).get(generation.app, AppState())
            if state.running >= spec.resources.min_replicas:
                return
            if state.status in ("DEPLOY_FAILED", "UNHEALTHY"):
                raise EngineLoadFailed(f"model {spec.id!r} did not load: {state.message}")
            if time.monotonic() >= deadline:
                raise EngineLoadFailed(
                    f"model {spec.id!r} was not ready after {spec.load_timeout_s:g} s "
                    f"(load_timeout_s); Serve says {state.status}"
                )
            await asyncio.sleep(POLL_S)

    async def unload(self, model: str, *, force: bool = False) -> None:
        """Take a model out of the table, let its requests end, delete it.

        Args:
            model: Model id.
            force: Also when a route uses it (a swap that holds the route).

        Raises:
            Conflict: A task is served by it.
        """
        self.spec(model)
        async with self._locks[model]:
            generation = self.generations.get(model)
            if generation is None:
                return
            if not force and (tasks := self.users(model)):
                raise Conflict(f"model {model!r} serves {', '.join(tasks)}; swap first")
            await self._withdraw(replace(generation, state="stopping"))
            await self._remove(generation)

    async def sleep(self, model: str, *, force: bool = False) -> Generation:
        """Let a model's requests end and give its memory back; ``load`` wakes it.

        Raises:
            Conflict: A task is served by it, or it is not loaded.
            NotSupported: Its engine cannot sleep.
        """
        self.spec(model)
        async with self._locks[model]:
            generation = self.generations.get(model)
            if generation is None:
                raise Conflict(f"model {model!r} is not loaded")
            if generation.state == "asleep":
                return generation
            if not force and (tasks := self.users(model)):
                raise Conflict(f"model {model!r} serves {', '.join(tasks)}; swap first")
            asleep = replace(generation, state="asleep")
            await self._withdraw(asleep)
            try:
                memory = await self._fleet.call(generation.app, "sleep")
            except HotswapError:
                await self._save(generation)
                await self._publish(model, self.target(generation))
                raise
            asleep = replace(asleep, memory_bytes=memory)
            await self._save(asleep)
            return asleep

    async def _wake(self, generation: Generation) -> Generation:
        memory = await self._fleet.call(generation.app, "wake")
        ready = replace(generation, state="ready", memory_bytes=memory)
        await self._save(ready)
        await self._publish(generation.model, self.target(ready))
        return ready

    async def _withdraw(self, generation: Generation) -> None:
        """No new request, then no request at all, on a generation in its new state."""
        await self._save(generation)
        await self._publish(generation.model, None)
        drain_timeout_s = self._config.swap.drain_timeout_s
        while not await self._publisher.drained(generation.app, drain_timeout_s):
            pass  # requests end by their own limit; none is cut off for a change of model

    async def _remove(self, generation: Generation) -> None:
        """Delete an application and wait until it is gone; safe to repeat."""
        state = (await self._fleet.states()).get(generation.app, AppState())
        if state.status != GONE:
            if state.running:
                with suppress(EngineError):  # a dead replica has nothing left to release
                    await self._fleet.call(generation.app, "stop")
            await self._fleet.delete(generation.app)
            # After the drain no request is left to wait for: Serve's grace is not needed.
            await self._fleet.kill_replicas(generation.app)
            deadline = time.monotonic() + DELETE_S
            while generation.app in await self._fleet.states():
                if time.monotonic() >= deadline:
                    raise EngineLoadFailed(f"application {generation.app} does not end")
                await asyncio.sleep(POLL_S)
        await asyncio.to_thread(self._store.delete_generation, generation.app)
        self.generations.pop(generation.model, None)

    async def reconcile(self, wanted: Iterable[str]) -> None:
        """Adopt what runs, forget what is gone, remove what nobody wants.

        Called once after a start: the store says what should be, Serve what is.
        """
        keep = set(wanted)
        states = await self._fleet.states()
        for doc in await asyncio.to_thread(self._store.load_generations):
            generation = Generation(**doc["value"])
            self.measured_bytes.setdefault(generation.model, generation.memory_bytes)
            if generation.app not in states:
                await asyncio.to_thread(self._store.delete_generation, generation.app)
                await self._publish(generation.model, None)
            elif generation.model not in keep or generation.state == "stopping":
                await self._publish(generation.model, None)
                await self._remove(generation)
            else:
                self.generations[generation.model] = generation

    async def _save(self, generation: Generation) -> None:
        doc = {"id": generation.app, "value": asdict(generation)}
        await asyncio.to_thread(self._store.save_generation, doc)
        self.generations[generation.model] = generation

    async def _publish(self, model: str, target: Target | None) -> None:
        await self._publisher.commit(
            lambda table: with_model(table, model, target, self._fallbacks()),
            self._config.swap.ack_timeout_s,
        )

    def describe(self) -> list[dict[str, Any]]:
        """Every known model with its state, for people."""
        return [
            {
                "model": spec.id,
                "engine": spec.engine,
                "state": generation.state if generation else "unloaded",
                "generation": generation.generation if generation else None,
                "memory_bytes": generation.memory_bytes if generation else 0,
                "load_s": generation.load_s if generation else None,
                "resident": spec.resident,
                "serves": self.users(spec.id),
                "spec": spec.model_dump(mode="json", exclude={"options"}),  # may hold a key
            }
            for spec in self.specs.values()
            for generation in [self.generations.get(spec.id)]
        ]
