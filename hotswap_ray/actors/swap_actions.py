"""What is done in each phase of a swap. One method a phase; each is safe to run again.

A method returns the record with what it measured, or raises; ``SwapController`` turns that
into the event for the table. Cancelling a method is an operator's abort.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict, replace
from typing import Any, Protocol

import orjson

from hotswap_ray.actors.fleet import Fleet, room_of
from hotswap_ray.actors.model_pool import ModelPool
from hotswap_ray.actors.publisher import Publisher
from hotswap_ray.config import Config
from hotswap_ray.core.checkers import score
from hotswap_ray.core.compatibility import check_compatibility
from hotswap_ray.core.errors import (
    EngineUnavailable,
    Incompatible,
    InsufficientResources,
    ValidationFailed,
)
from hotswap_ray.core.routes import RouteTable, with_hold, with_route
from hotswap_ray.core.spec import GoldenPrompt, TaskSpec
from hotswap_ray.core.strategy import Strategy, choose_strategy
from hotswap_ray.core.swap import Event, Phase, Swap, advance
from hotswap_ray.store import Store

STEADY_S = 60.0  # what counts as "before" when the price of a load is measured
POLL_S = 0.5


class Learning(Protocol):
    """What a swap asks of the learnings."""

    async def transfer(self, task: str, from_model: str, to_model: str) -> Any:
        """Carry task knowledge over; returns the record of what went."""
        ...

    async def latency_p99(self, since_s: float, until_s: float) -> dict[str, Any]:
        """99th percentile of requests that arrived in a span, as ``p99_ms`` and ``count``."""
        ...


class SwapActions:
    """The hands of the controller; owns no state of its own.

    Args:
        config: Timeouts and modes.
        store: For the one commit that saves swap and route table together.
        fleet: The cluster.
        pool: Models.
        publisher: Route table.
        learning: Learnings.
        tasks: Task specs by id.
        clock: Unix seconds.
    """

    def __init__(
        self,
        config: Config,
        store: Store,
        fleet: Fleet,
        pool: ModelPool,
        publisher: Publisher,
        learning: Learning,
        tasks: dict[str, TaskSpec],
        clock: Callable[[], float],
    ) -> None:
        self._config = config
        self._store = store
        self._fleet = fleet
        self._pool = pool
        self._publisher = publisher
        self._learning = learning
        self._tasks = tasks
        self._clock = clock

    def action(self, phase: Phase) -> Callable[[Swap], Awaitable[Swap]]:
        """The method of an open phase; it has the phase's name."""
        method: Callable[[Swap], Awaitable[Swap]] = getattr(self, phase.value)
        return method

    async def requested(self, swap: Swap) -> Swap:
        """Nothing: the record is saved, which is all this phase is for."""
        return swap

    async def checking(self, swap: Swap) -> Swap:
        """Compatibility, then room; waits a bounded time for room."""
        task, spec = self._tasks[swap.task], self._pool.spec(swap.to_model)
        report = check_compatibility(
            task,
            spec,
            self._pool.specs.get(swap.from_model),
            measured_memory_bytes=self._pool.measured_bytes.get(spec.id, 0),
        )
        strict = swap.facts.get("compatibility", self._config.swap.compatibility) == "strict"
        if not report.accepts(strict):
            refusing = report.gaps if strict else report.errors
            raise Incompatible(
                f"{spec.id} may not replace {swap.from_model} for {task.id}: "
                + "; ".join(str(gap) for gap in refusing)
            )
        if report.gaps:
            swap = swap.with_facts(warnings=[str(gap) for gap in report.gaps])
        deadline = time.monotonic() + self._config.swap.load_wait_s
        while True:
            strategy, why = await self._strategy(swap)
            if strategy is not None:
                return replace(swap, strategy=strategy, reason=why)
            if time.monotonic() >= deadline:
                raise InsufficientResources(f"no room for {spec.id}: {why}", 30.0)
            await asyncio.sleep(POLL_S)

    async def _strategy(self, swap: Swap) -> tuple[Strategy | None, str]:
        pool, old = self._pool, swap.from_model
        shared = [task for task in pool.users(old) if task != swap.task]
        return choose_strategy(
            await self._fleet.free(),
            room_of(pool.spec(swap.to_model), pool.measured_bytes.get(swap.to_model, 0)),
            room_of(pool.spec(old), pool.measured_bytes.get(old, 0)),
            loaded=pool.is_ready(swap.to_model),
            old_can_sleep=pool.can_sleep(old),
            old_is_shared=bool(shared),
            wanted=swap.facts.get("strategy") or self._config.swap.strategy,
        )

    async def loading(self, swap: Swap) -> Swap:
        """Bring the candidate up, making room first where the strategy says so."""
        loaded_here = not self._pool.is_ready(swap.to_model)
        since_s = self._clock()
        if swap.strategy != "overlap":
            await self._make_room(swap.task, swap.from_model, swap.strategy)
        generation = await self._pool.load(swap.to_model)
        swap = replace(swap, to_generation=generation.generation)
        if not loaded_here:
            return swap
        during = await self._learning.latency_p99(since_s, self._clock())
        before = await self._learning.latency_p99(since_s - STEADY_S, since_s)
        if during["count"] and before["count"]:
            ratio = during["p99_ms"] / max(before["p99_ms"], 1e-3)
            swap = swap.with_facts(
                load_p99_ms=round(during["p99_ms"], 2),
                steady_p99_ms=round(before["p99_ms"], 2),
                load_p99_ratio=round(ratio, 3),
                load_requests=during["count"],
            )
        return swap.with_facts(loaded_here=True, memory_bytes=generation.memory_bytes)

    async def _make_room(self, task: str, model: str, strategy: str) -> None:
        """Hold the route, let its requests end, then free what ``model`` uses."""
        await self._commit(lambda table: with_hold(table, task, True))
        if model not in self._pool.generations:
            return
        if strategy == "sleep":
            await self._pool.sleep(model, force=True)
        else:
            await self._pool.unload(model, force=True)

    async def validating(self, swap: Swap) -> Swap:
        """Ask the golden prompts and judge the answers, memory and time."""
        task = self._tasks[swap.task]
        app = self._pool.generations[swap.to_model].app
        limit_s = self._config.swap.validation_timeout_s
        passed, slowest_ms = 0, 0.0
        wrong = ""
        try:
            async with asyncio.timeout(limit_s):
                for golden in task.golden or (GoldenPrompt(prompt="Hello", max_tokens=4),):
                    text, elapsed_ms = await self._ask(app, golden)
                    slowest_ms = max(slowest_ms, elapsed_ms)
                    if score(golden.check, text) or not task.golden:
                        passed += 1
                    else:
                        wrong = wrong or f"; first wrong answer: {text[:80]!r}"
        except TimeoutError:
            raise ValidationFailed(f"golden prompts took longer than {limit_s:g} s") from None
        total = len(task.golden) or 1
        if passed < task.golden_min_pass * total:
            raise ValidationFailed(
                f"{swap.to_model} passed {passed} of {total} golden prompts of {task.id}, "
                f"{task.golden_min_pass:.0%} are needed{wrong}"
            )
        needs = task.requirements
        if needs.max_latency_ms and slowest_ms > needs.max_latency_ms:
            raise ValidationFailed(
                f"{swap.to_model} took {slowest_ms:.0f} ms, {needs.max_latency_ms:g} ms are allowed"
            )
        memory = self._pool.generations[swap.to_model].memory_bytes
        if needs.max_memory_bytes and memory > needs.max_memory_bytes:
            raise ValidationFailed(
                f"{swap.to_model} uses {memory / 2**20:.0f} MiB, "
                f"{needs.max_memory_bytes / 2**20:.0f} MiB are allowed"
            )
        return swap.with_facts(golden=f"{passed}/{total}", golden_ms=round(slowest_ms, 1))

    async def _ask(self, app: str, golden: GoldenPrompt) -> tuple[str, float]:
        body: dict[str, Any] = {"max_tokens": golden.max_tokens, "temperature": 0}
        if golden.stop:
            body["stop"] = list(golden.stop)
        started = time.perf_counter()
        if golden.prompt is not None:
            body["prompt"] = golden.prompt
            answer = (await self._fleet.call(app, "generate", "completions", body))[0]
            text = orjson.loads(answer)["choices"][0]["text"]
        else:
            body["messages"] = list(golden.messages or ())
            answer = (await self._fleet.call(app, "generate", "chat/completions", body))[0]
            text = orjson.loads(answer)["choices"][0]["message"]["content"]
        return str(text or ""), (time.perf_counter() - started) * 1e3

    async def transferring(self, swap: Swap) -> Swap:
        """Carry the task's knowledge over; evidence stays with the model it is about."""
        started = time.perf_counter()
        record = await self._learning.transfer(swap.task, swap.from_model, swap.to_model)
        elapsed_ms = (time.perf_counter() - started) * 1e3
        return swap.with_facts(transfer_ms=round(elapsed_ms, 3), transferred=_short(record))

    async def canary(self, swap: Swap) -> Swap:
        """No steps are configured: done at once."""
        return swap

    async def switching(self, swap: Swap) -> Swap:
        """One commit of the route table, saved together with the swap's next phase."""
        generation = self._pool.generations[swap.to_model]
        target = self._pool.target(generation)
        if self._publisher.table.routes[swap.task].active == target:
            return swap  # the commit was saved before a crash
        timeout_s = self._config.swap.ack_timeout_s
        if not await self._publisher.prepare(target.app, timeout_s):
            raise EngineUnavailable(f"not every ingress replica reached {target.app}")
        ahead = advance(swap, Event.DONE, self._clock())
        commit_ms = await self._switch(swap.task, swap.to_model, ahead)
        return swap.with_facts(commit_ms=round(commit_ms, 2))

    async def _switch(self, task: str, model: str, swap: Swap) -> float:
        target = self._pool.target(self._pool.generations[model])

        async def save(table: RouteTable) -> None:
            await asyncio.to_thread(self._store.commit_swap, swap.to_doc(), table.to_doc())

        return await self._publisher.commit(
            lambda table: with_route(table, task, target, self.fallbacks()),
            self._config.swap.ack_timeout_s,
            save,
        )

    async def draining(self, swap: Swap) -> Swap:
        """Wait until no request is on the old model any more."""
        old = self._pool.generations.get(swap.from_model)
        if old is not None:
            limit_s = self._config.swap.drain_timeout_s
            if not await self._publisher.drained(old.app, limit_s):
                raise EngineUnavailable(f"{old.app} still has requests after {limit_s:g} s")
        return swap

    async def baking(self, swap: Swap) -> Swap:
        """Keep the old model warm for a while; an operator may end it either way."""
        spent = max(0.0, self._clock() - swap.updated_at_s)
        await asyncio.sleep(max(0.0, swap.bake_s - spent))
        return swap

    async def retiring(self, swap: Swap) -> Swap:
        """Unload the old model unless somebody else wants it."""
        await self._unload_unwanted(swap.from_model)
        return swap

    async def releasing(self, swap: Swap) -> Swap:
        """Undo what was done before the switch: the old model serves, the candidate goes."""
        if swap.strategy in ("sleep", "drain_first") and swap.from_model != swap.to_model:
            await self._unload_unwanted(swap.to_model)
            await self._pool.load(swap.from_model)
            await self._commit(lambda table: with_hold(table, swap.task, False))
        elif swap.facts.get("loaded_here") or not self._pool.is_ready(swap.to_model):
            await self._unload_unwanted(swap.to_model)
        return swap

    async def rolling_back(self, swap: Swap) -> Swap:
        """Give the task back to the old model, warm or not, and retire the candidate."""
        started = time.perf_counter()
        back = self._publisher.table.routes[swap.task].model == swap.from_model
        if not back:
            if not self._pool.is_ready(swap.from_model):
                lacks = (await self._fleet.free()).lacks(room_of(self._pool.spec(swap.from_model)))
                if lacks or swap.strategy == "sleep":
                    how = "sleep" if self._pool.can_sleep(swap.to_model) else "drain_first"
                    await self._make_room(swap.task, swap.to_model, how)
                await self._pool.load(swap.from_model)
            ahead = swap.with_facts(rolled_back=True)
            commit_ms = await self._switch(swap.task, swap.from_model, ahead)
            rollback_ms = (time.perf_counter() - started) * 1e3
            swap = swap.with_facts(
                commit_ms=round(commit_ms, 2), rollback_ms=round(rollback_ms, 2), rolled_back=True
            )
        return swap

    async def retire_candidate(self, swap: Swap) -> None:
        """Unload the candidate of a swap that was rolled back, unless it is wanted."""
        generation = self._pool.generations.get(swap.to_model)
        if generation is not None:
            await self._publisher.drained(generation.app, self._config.swap.drain_timeout_s)
        await self._unload_unwanted(swap.to_model)

    async def _unload_unwanted(self, model: str) -> None:
        if model not in self._pool.specs or self._pool.spec(model).resident:
            return
        if not self._pool.users(model) and not self._pool.fallback_users(model):
            await self._pool.unload(model)

    def fallbacks(self) -> dict[str, str | None]:
        """Fallback model id per task."""
        return {task: spec.fallback for task, spec in self._tasks.items()}

    async def _commit(self, change: Callable[[RouteTable], RouteTable]) -> None:
        await self._publisher.commit(change, self._config.swap.ack_timeout_s)


def _short(record: Any) -> Any:
    """The transfer record without what the store keeps elsewhere: an event stays small."""
    if hasattr(record, "summary"):
        return record.summary()
    return asdict(record) if hasattr(record, "__dataclass_fields__") else record
