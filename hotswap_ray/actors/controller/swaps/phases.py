"""What is done in each phase of a swap. One method a phase; each is safe to run again.

A method returns the record with what it measured, or raises; ``SwapController`` turns that
into the event for the table. Cancelling a method is an operator's abort.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial
from typing import Literal

from hotswap_ray.actors.cluster.fleet import Fleet, room_of
from hotswap_ray.actors.controller.models.pool import ModelPool
from hotswap_ray.actors.controller.models.publisher import Publisher
from hotswap_ray.actors.controller.models.retention import Retention
from hotswap_ray.actors.controller.swaps.bake import Bake
from hotswap_ray.actors.controller.swaps.canary import Canary
from hotswap_ray.actors.controller.swaps.golden_check import validate
from hotswap_ray.actors.controller.swaps.learnings import SwapLearning
from hotswap_ray.actors.controller.swaps.probe_check import verify
from hotswap_ray.actors.controller.swaps.probing import Probing
from hotswap_ray.config import Config
from hotswap_ray.core.answers.judge_messages import Judging
from hotswap_ray.core.errors import (
    EngineTimeout,
    EngineUnavailable,
    Incompatible,
    InsufficientResources,
)
from hotswap_ray.core.fit.compatibility import CompatibilityReport, check_compatibility
from hotswap_ray.core.fit.room import Room, Strategy, choose_strategy
from hotswap_ray.core.routing.table import RouteTable, with_hold, with_proof, with_route, with_split
from hotswap_ray.core.spec.task import TaskSpec
from hotswap_ray.core.swap.history import KEPT_WARM
from hotswap_ray.core.swap.phases import Event, Phase, Swap, advance
from hotswap_ray.store import Store

POLL_S = 0.5
LEARNING_WAIT_S = 30.0


class SwapActions:
    """The actions of the phases; has no state of its own.

    Args:
        config: Timeouts and modes.
        store: For the one commit that saves swap and route table together.
        fleet: The cluster.
        pool: Models.
        publisher: Route table.
        learning: Learnings, and what is predicted and measured.
        tasks: Task specs by id.
        clock: Unix seconds.
        judge: Judges answers to golden prompts.
        canary: Takes candidates through the steps of a rollout.
        bake: Watches them after the switch.
        retention: Which models stay loaded.
    """

    def __init__(
        self,
        config: Config,
        store: Store,
        fleet: Fleet,
        pool: ModelPool,
        publisher: Publisher,
        learning: SwapLearning,
        tasks: dict[str, TaskSpec],
        clock: Callable[[], float],
        judge: Judging,
        canary: Canary,
        bake: Bake,
        retention: Retention,
    ) -> None:
        self._config = config
        self._store = store
        self._fleet = fleet
        self._pool = pool
        self._publisher = publisher
        self._learning = learning
        self._tasks = tasks
        self._clock = clock
        self._judge = judge
        self._canary = canary
        self._bake = bake
        self._retention = retention
        self._probing = Probing(fleet, store, config.swap.probe_timeout_s)

    def action(self, phase: Phase) -> Callable[[Swap], Awaitable[Swap]]:
        """The method of an open phase; it has the phase's name."""
        method: Callable[[Swap], Awaitable[Swap]] = getattr(self, phase.value)
        return method

    async def requested(self, swap: Swap) -> Swap:
        """Nothing to do: this phase exists so that the record is saved."""
        return swap

    async def checking(self, swap: Swap) -> Swap:
        """Compatibility, then room; waits a bounded time for room."""
        spec = self._pool.spec(swap.to_model)
        report, refusal = self.compatibility(swap)
        if refusal is not None:
            raise refusal
        if report.gaps:
            swap = swap.with_facts(warnings=[str(gap) for gap in report.gaps])
        deadline = time.monotonic() + self._config.swap.load_wait_s
        while True:
            strategy, reason = await self.strategy(swap)
            if strategy is not None:
                # Saved before the load: after a crash nobody could tell who had loaded the model.
                swap = swap.with_facts(loaded_here=not self._pool.is_ready(spec.id))
                swap = await self._learning.predicted(swap)
                return replace(swap, strategy=strategy, reason=reason)
            if time.monotonic() >= deadline:
                raise InsufficientResources(f"no room for {spec.id}: {reason}", 30.0)
            await asyncio.sleep(POLL_S)

    def compatibility(self, swap: Swap) -> tuple[CompatibilityReport, Incompatible | None]:
        """What the candidate lacks, and the refusal that it comes to."""
        task, spec = self._tasks[swap.task], self._pool.spec(swap.to_model)
        report = check_compatibility(
            task,
            spec,
            self._pool.specs.get(swap.from_model),
            measured_memory_bytes=self._pool.measured_bytes.get(spec.id, 0),
        )
        strict = swap.facts.get("compatibility", self._config.swap.compatibility) == "strict"
        if report.accepts(strict):
            return report, None
        gaps = "; ".join(map(str, report.gaps if strict else report.errors))
        return report, Incompatible(
            f"{spec.id} may not replace {swap.from_model} for {task.id}: {gaps}"
        )

    async def strategy(self, swap: Swap) -> tuple[Strategy | None, str]:
        """How the candidate gets its room, or ``None``, and why."""
        wanted = swap.facts.get("strategy") or self._config.swap.strategy
        return await self._strategy(swap, swap.to_model, swap.from_model, wanted)

    async def _strategy(
        self, swap: Swap, new: str, old: str, wanted: Literal["auto"] | Strategy
    ) -> tuple[Strategy | None, str]:
        """How ``new`` gets the room it needs while ``old`` serves."""
        pool = self._pool
        return choose_strategy(
            (await self._fleet.free()).plus(await self._retention.room(new, old)),
            self._room(new, pool.is_reserved(new)),
            self._room(old) if pool.is_reserved(old) else Room(),
            loaded=pool.is_ready(new),
            old_can_sleep=pool.can_sleep(old),
            old_is_shared=self._retention.is_needed(old, swap),
            wanted=wanted,
        )

    def _room(self, model: str, is_reserved: bool = False) -> Room:
        need = room_of(self._pool.spec(model), self._pool.measured_bytes.get(model, 0))
        # A sleeping model keeps the CPUs and GPUs that Ray gave it.
        return Room(memory_bytes=need.memory_bytes) if is_reserved else need

    async def loading(self, swap: Swap) -> Swap:
        """Bring the candidate up, making room first where the strategy says so."""
        since_s = self._clock()
        if swap.strategy != "overlap":
            await self._make_room(swap.task, swap.from_model, swap.strategy)
        generation = await self._pool.load(swap.to_model)
        swap = replace(swap, to_generation=generation.generation)
        if not swap.facts.get("loaded_here"):
            return swap
        swap = swap.with_facts(memory_bytes=generation.memory_bytes)
        return await self._learning.price_of_load(swap, since_s, self._clock())

    async def _make_room(self, task: str, model: str, strategy: str) -> None:
        """Hold the route, let its requests end, then free what ``model`` uses."""
        if not self._publisher.table.routes[task].held:
            await self._commit(lambda table: with_hold(table, task, True))
        generation = self._pool.generations.get(model)
        if generation is None:
            return
        # Tool loops go on while the route is held, but not once the model is out of the table.
        await self._publisher.loops_ended(generation.app, self._config.swap.drain_timeout_s)
        if strategy == "sleep":
            await self._pool.sleep(model, force=True)
        else:
            await self._pool.unload(model, force=True)

    async def validating(self, swap: Swap) -> Swap:
        """Ask the golden prompts, judge answers, memory and time; then probe what it can do."""
        generation = await self._pool.load(swap.to_model)  # again, if the cluster has lost it
        limit_s = self._config.swap.validation_timeout_s
        swap = replace(swap, to_generation=generation.generation)
        record = partial(self._learning.record_golden, swap)
        task = self._tasks[swap.task]
        spec = self._pool.spec(swap.to_model)
        facts = await validate(self._fleet, task, generation, limit_s, self._judge, record, spec)
        if self._config.swap.probe:
            strict = swap.facts.get("compatibility", self._config.swap.compatibility) == "strict"
            old = swap.from_model
            facts |= await verify(self._probing, self._pool, task, generation, old, strict)
        return swap.with_facts(**facts)

    async def transferring(self, swap: Swap) -> Swap:
        """Carry the task's knowledge over; evidence stays with the model it is about."""
        deadline = time.monotonic() + LEARNING_WAIT_S
        while True:
            started = time.perf_counter()
            try:
                record = await self._learning.transfer(swap)
                break
            except (EngineUnavailable, EngineTimeout):  # the actor is being restarted
                if time.monotonic() >= deadline:
                    raise
                await asyncio.sleep(POLL_S)
        elapsed_ms = (time.perf_counter() - started) * 1e3
        return swap.with_facts(transfer_ms=round(elapsed_ms, 3), transferred=record)

    async def canary(self, swap: Swap) -> Swap:
        """A growing share of the conversations; done at once where no steps are planned."""
        return await self._canary.run(swap)

    async def switching(self, swap: Swap) -> Swap:
        """One commit of the route table, saved together with the swap's next phase."""
        generation = await self._pool.load(swap.to_model)
        if generation.generation != swap.to_generation:  # loaded anew after a crash
            swap = await self.validating(swap)
        target = self._pool.target(generation)
        if self._publisher.table.routes[swap.task].active == target:
            return swap  # the commit was saved before a crash
        timeout_s = self._config.swap.ack_timeout_s
        if not await self._publisher.prepare(target.app, timeout_s):
            raise EngineUnavailable(f"not every ingress replica reached {target.app}")
        next_record = advance(swap, Event.DONE, self._clock())
        commit_ms = await self._switch(swap.task, swap.to_model, next_record, proving=True)
        return swap.with_facts(commit_ms=round(commit_ms, 2))

    async def _switch(self, task: str, model: str, swap: Swap, proving: bool = False) -> float:
        target = self._pool.target(self._pool.generations[model])

        async def save(table: RouteTable) -> None:
            await asyncio.to_thread(self._store.commit_swap, swap.to_doc(), table.to_doc())

        return await self._publisher.commit(
            lambda table: with_route(table, task, target, self.fallbacks(), proving),
            self._config.swap.ack_timeout_s,
            save,
        )

    async def draining(self, swap: Swap) -> Swap:
        """Wait until no request is on the old model any more.

        A model that other tasks use is never idle, and it stays loaded. The limit cuts no request
        off: the old model is unloaded only when its requests have ended, however long that takes.
        """
        old = self._pool.generations.get(swap.from_model)
        if old is None or self._pool.users(swap.from_model):
            return swap
        await self._publisher.loops_ended(old.app, self._config.swap.drain_timeout_s)
        if not await self._publisher.drained(old.app, self._config.swap.drain_timeout_s):
            swap = swap.with_facts(still_in_flight=old.app)
        return swap

    async def baking(self, swap: Swap) -> Swap:
        """Keep the old model warm for a while, and go back if the new one breaches a guardrail."""
        return await self._bake.run(swap, self._canary.plan(swap).dry_run)

    async def retiring(self, swap: Swap) -> Swap:
        """Measure what the candidate came to; unload the old model unless it is wanted or kept."""
        swap = await self._learning.actual(swap)
        swap = await self._retention.leave(swap, swap.from_model)
        if self._publisher.table.routes[swap.task].proven is not None:  # it stays loaded
            await self._commit(lambda table: with_proof(table, swap.task))
        await self._retention.trim(swap)
        return swap

    async def releasing(self, swap: Swap) -> Swap:
        """Undo what was done before the switch: the old model serves, the candidate goes."""
        if self._publisher.table.routes[swap.task].split is not None:
            await self._commit(lambda table: with_split(table, swap.task, None))
        if swap.facts.get("loaded_here") or swap.facts.get("borrowed"):
            made_room = swap.strategy != "overlap"
            await self._retention.let_go(swap.to_model, swap, although_resident=made_room)
        if swap.strategy in ("sleep", "drain_first"):
            await self._pool.load(swap.from_model)
            if self._publisher.table.routes[swap.task].held:
                await self._commit(lambda table: with_hold(table, swap.task, False))
        return swap

    async def rolling_back(self, swap: Swap) -> Swap:
        """Give the task back to the old model, warm or not, and retire the candidate."""
        started = time.perf_counter()
        if self._publisher.table.routes[swap.task].model != swap.from_model:
            if not self._pool.is_ready(swap.from_model):
                await self._room_to_go_back(swap)
            await self._pool.load(swap.from_model)
            commit_ms = await self._switch(swap.task, swap.from_model, swap)
            rollback_ms = (time.perf_counter() - started) * 1e3
            swap = swap.with_facts(commit_ms=round(commit_ms, 2), rollback_ms=round(rollback_ms, 2))
        if "undoes" in swap.facts:  # the candidate has not failed, so it may stay warm
            swap = self._retention.keep(swap, swap.to_model)
        return await self._learning.actual(swap)

    async def _room_to_go_back(self, swap: Swap) -> None:
        wanted: Literal["auto", "sleep"] = "sleep" if swap.strategy == "sleep" else "auto"
        strategy, reason = await self._strategy(swap, swap.from_model, swap.to_model, wanted)
        if strategy is None:
            raise InsufficientResources(f"no room for {swap.from_model}: {reason}", 30.0)
        if strategy != "overlap":
            await self._make_room(swap.task, swap.to_model, strategy)

    async def retire_candidate(self, swap: Swap) -> None:
        """Unload the candidate of a swap that was rolled back, unless it is wanted."""
        if KEPT_WARM in swap.facts:
            await self._retention.trim(swap)
        else:
            await self._retention.let_go(swap.to_model, swap)

    def fallbacks(self) -> dict[str, str | None]:
        """Fallback model id per task."""
        return {task: spec.fallback for task, spec in self._tasks.items()}

    async def _commit(self, change: Callable[[RouteTable], RouteTable]) -> None:
        await self._publisher.commit(change, self._config.swap.ack_timeout_s)
