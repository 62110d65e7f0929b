"""Models that are loaded: their specs and generations, and how one is loaded and unloaded.

Single writer of generations. A generation is saved before its application is asked for,
so nothing can run that the store does not have; it is published after it answered, and
taken out of the table before it is deleted.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import asdict, replace
from typing import Literal

from hotswap_ray.actors.cluster.application import ask, end, state_of, until_running
from hotswap_ray.actors.cluster.fleet import Fleet, room_of
from hotswap_ray.actors.cluster.generation import Generation, can_sleep, target_of
from hotswap_ray.actors.controller.models.publisher import Publisher
from hotswap_ray.config import Config
from hotswap_ray.core.errors import (
    Conflict,
    EngineError,
    HotswapError,
    InsufficientResources,
    NotFound,
    NotSupported,
)
from hotswap_ray.core.routing.table import RouteTable, unknown, with_model
from hotswap_ray.core.routing.target import Target
from hotswap_ray.core.spec.task import ModelSpec
from hotswap_ray.engines.base import load_engine_class, parse_options
from hotswap_ray.store import Store

ROOM_POLL_S = 0.5
log = logging.getLogger("hotswap.models")


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
        self.give_up: Callable[[ModelSpec], Awaitable[bool]] | None = None  # of ``Retention``
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
        if source == "runtime":  # the file is read at each start, secrets included
            await asyncio.to_thread(self._store.save_model, spec.model_dump_json(), spec.id, source)
        self.specs[spec.id] = spec
        if source == "runtime" and spec.id not in self._publisher.table.models:
            await self._publish(spec.id, None)  # models of the file are published together

    def target(self, generation: Generation) -> Target:
        """What the route table says of a generation."""
        return target_of(
            self.spec(generation.model), generation, self._config.server.ingress_replicas
        )

    def is_ready(self, model: str) -> bool:
        """Whether a model is loaded and awake."""
        return model in self.generations and self.generations[model].state == "ready"

    def is_reserved(self, model: str) -> bool:
        """Whether a model has an application, awake or not, and so its CPUs and GPUs."""
        return model in self.generations

    def busy(self, model: str) -> str:
        """``loading``, ``draining`` or ``stopping`` while that is under way, else empty."""
        generation = self.generations.get(model)
        if generation is None or not self._locks[model].locked():
            return ""
        return "" if generation.state == "ready" else generation.state

    def can_sleep(self, model: str) -> bool:
        """Whether a model can give memory back without ending."""
        return can_sleep(self.spec(model))

    def users(self, model: str) -> list[str]:
        """Tasks that ``model`` serves now, as their own or as a candidate of a rollout or test."""
        return [t for t, route in self._publisher.table.routes.items() if route.uses(model)]

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
                await self._announce(current)
                return current
            if current is not None and current.state in ("asleep", "draining"):
                return await self._wake(current)
            if current is not None and await self._is_ending(current):
                await self._remove(current)
            return await self._load(spec)

    async def _load(self, spec: ModelSpec) -> Generation:
        """Load when there is room; other loads go on while this one waits for room."""
        wait_s = self._config.swap.load_wait_s
        deadline = time.monotonic() + wait_s
        while True:
            async with self._loading:
                started = self.generations.get(spec.id)
                gaps = await self._gaps(spec, started)
                if not gaps:
                    return await self._bring_up(spec, started)
            if self.give_up is not None and await self.give_up(spec):
                continue
            if time.monotonic() >= deadline:
                if started is not None:
                    await self._remove(started)
                raise InsufficientResources(
                    f"no room for model {spec.id!r} after {wait_s:g} s: {'; '.join(gaps)}", 30.0
                )
            await asyncio.sleep(ROOM_POLL_S)

    async def _gaps(self, spec: ModelSpec, started: Generation | None) -> list[str]:
        if started is not None and started.app in await self._fleet.states():
            return []  # it holds its room already
        return (await self._fleet.free()).lacks(room_of(spec, self.measured_bytes.get(spec.id, 0)))

    async def _bring_up(self, spec: ModelSpec, started: Generation | None) -> Generation:
        starting = asyncio.ensure_future(self._begin(spec, started))
        try:
            started = await asyncio.shield(starting)
            await until_running(self._fleet, spec, started)
            ping = await ask(self._fleet, started, "ping", spec.load_timeout_s)
        except BaseException:
            # Also on cancellation (an abort): what was started must not stay.
            await asyncio.shield(self._give_up(spec.id, starting))
            raise
        self.measured_bytes[spec.id] = memory = ping["memory_bytes"]
        ready = replace(
            started, state="ready", memory_bytes=memory, load_s=round(ping["load_s"], 3)
        )
        await self._save(ready)
        await self._announce(ready)
        return ready

    async def _begin(self, spec: ModelSpec, started: Generation | None) -> Generation:
        if started is None:
            number = await asyncio.to_thread(self._store.next_generation, spec.id)
            started = Generation(spec.id, number)
            await self._save(started)
        await self._fleet.deploy(spec, started.generation, self._config.swap.load_nice)
        return started

    async def _give_up(self, model: str, starting: asyncio.Future[Generation]) -> None:
        await asyncio.wait({starting})  # its thread cannot be stopped, and may still deploy
        if started := self.generations.get(model):
            try:
                await self._remove(started)
            except HotswapError as error:
                log.error("%s is left behind: %s", started.app, error)

    async def _is_ending(self, generation: Generation) -> bool:
        is_deleting = (await state_of(self._fleet, generation)).status == "DELETING"
        return is_deleting or generation.state == "stopping"

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
            self._refuse_if_serving(model, force)
            if generation.state != "stopping":
                await self._withdraw(generation)
                generation = replace(generation, state="stopping")
                await self._save(generation)
            await self._remove(generation)

    async def sleep(self, model: str, *, force: bool = False) -> Generation:
        """Let a model's requests end and give its memory back; ``load`` wakes it.

        Raises:
            Conflict: A task is served by it, or it is not loaded.
            NotSupported: Its engine cannot sleep.
        """
        spec = self.spec(model)
        if not self.can_sleep(model):
            raise NotSupported(
                f"model {model!r} cannot sleep: engine {spec.engine} does not, or it has replicas"
            )
        async with self._locks[model]:
            generation = self.generations.get(model)
            if generation is None or generation.state in ("loading", "stopping"):
                raise Conflict(f"model {model!r} is not loaded")
            if generation.state == "asleep":
                return generation
            self._refuse_if_serving(model, force)
            await self._withdraw(generation)
            try:
                memory = await ask(self._fleet, generation, "sleep", spec.load_timeout_s)
            except EngineError:
                await self._wake(generation)
                raise
            asleep = replace(generation, state="asleep", memory_bytes=memory)
            await self._save(asleep)
            return asleep

    def _refuse_if_serving(self, model: str, force: bool) -> None:
        if not force and (tasks := self.users(model)):
            raise Conflict(f"model {model!r} serves {', '.join(tasks)}; swap first")

    async def _wake(self, generation: Generation) -> Generation:
        spec = self.spec(generation.model)
        memory = await ask(self._fleet, generation, "wake", spec.load_timeout_s)
        ready = replace(generation, state="ready", memory_bytes=memory)
        await self._save(ready)
        await self._announce(ready)
        return ready

    async def _withdraw(self, generation: Generation) -> None:
        """Stop new requests to a generation and wait for the others; ``load`` brings it back."""
        await self._save(replace(generation, state="draining"))
        await self._publish(generation.model, None)
        while not await self._publisher.drained(generation.app, self._config.swap.drain_timeout_s):
            pass  # each request ends by its own timeout; none is cut off

    async def _remove(self, generation: Generation) -> None:
        """Delete an application and wait until it is gone; safe to repeat."""
        await end(self._fleet, generation)
        if self.generations.get(generation.model, generation).app == generation.app:
            self.generations.pop(generation.model, None)
        # Last: a record without an application is forgotten at the next start.
        await asyncio.to_thread(self._store.delete_generation, generation.app)

    async def reconcile(self, wanted: Iterable[str]) -> tuple[set[str], set[str]]:
        """Adopt what runs and forget what is gone; the table then says what is ready.

        Called once after a start: the store says what should be, Serve what is.

        Args:
            wanted: Models that are needed.

        Returns:
            Models that were ready and are gone, and models to unload: their load or unload
            was cut short and nobody needs them.
        """
        keep = set(wanted)
        lost, surplus = set(), set()
        states = await self._fleet.states()
        for doc in await asyncio.to_thread(self._store.load_generations):
            generation = Generation(**doc["value"])
            if generation.model not in self.specs:
                await self._remove(generation)  # it left the configuration, and the table
                continue
            if generation.memory_bytes and generation.state != "asleep":
                self.measured_bytes.setdefault(generation.model, generation.memory_bytes)
            if generation.app not in states:
                await asyncio.to_thread(self._store.delete_generation, generation.app)
                if generation.state == "ready":
                    lost.add(generation.model)
                continue
            self.generations[generation.model] = generation
            if generation.model not in keep and generation.state not in ("ready", "asleep"):
                surplus.add(generation.model)

        def with_ready_models(table: RouteTable) -> RouteTable:
            for model in self.specs:
                target = self.target(self.generations[model]) if self.is_ready(model) else None
                table = with_model(table, model, target, self._fallbacks())
            return table

        if with_ready_models(self._publisher.table) != self._publisher.table:
            # No replica listens before the start is over, so no acknowledgement is waited for.
            await self._publisher.commit(with_ready_models, 0)
        return lost, surplus

    async def _save(self, generation: Generation) -> None:
        doc = {"id": generation.app, "value": asdict(generation)}
        await asyncio.to_thread(self._store.save_generation, doc)
        self.generations[generation.model] = generation

    async def _announce(self, ready: Generation) -> None:
        """Publish a generation if it is not; a crash may have come between load and publishing."""
        target = self.target(ready)
        if self._publisher.table.models.get(ready.model) != target:
            await self._publish(ready.model, target)

    async def _publish(self, model: str, target: Target | None) -> None:
        await self._publisher.commit(
            lambda table: with_model(table, model, target, self._fallbacks()),
            self._config.swap.ack_timeout_s,
        )
