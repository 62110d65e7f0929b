"""Which models stay loaded after they served: those others need, and the last few of each task.

``swap.keep_warm`` models that served a task last stay loaded beside the one that serves it, so
that going back to them is one commit. They give their room up, the oldest first, before a load
is refused for want of room.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable

from hotswap_ray.actors.cluster.fleet import Fleet, room_of
from hotswap_ray.actors.controller.models.pool import ModelPool
from hotswap_ray.config import Config
from hotswap_ray.core.errors import HotswapError
from hotswap_ray.core.fit.room import Room
from hotswap_ray.core.spec.task import ModelSpec
from hotswap_ray.core.swap.history import KEPT_WARM, kept_warm
from hotswap_ray.core.swap.phases import Phase, Swap
from hotswap_ray.store import Store

HISTORY = 1000
"""How many of the latest swaps are searched."""


class Retention:
    """Keeps models warm, and lets them go.

    Args:
        config: ``swap.keep_warm``.
        store: Swaps, whose facts say what is kept.
        fleet: The cluster, for the room it has.
        pool: Models.
        open_swaps: All swaps that have not ended.
        tested: Models that open A/B tests need.
    """

    def __init__(
        self,
        config: Config,
        store: Store,
        fleet: Fleet,
        pool: ModelPool,
        open_swaps: Callable[[], list[Swap]],
        tested: Callable[[], set[str]],
    ) -> None:
        self._keep = config.swap.keep_warm
        self._store = store
        self._fleet = fleet
        self._pool = pool
        self._open_swaps = open_swaps
        self._tested = tested
        pool.give_up = self.give_up

    async def leave(self, swap: Swap, model: str) -> Swap:
        """Let go of the model that a task leaves, or note in its swap that it is kept warm."""
        swap = self.keep(swap, model)
        if KEPT_WARM not in swap.facts:
            await self.let_go(model, swap)
        return swap

    def keep(self, swap: Swap, model: str) -> Swap:
        """Note in a swap that a model is kept warm, where any is."""
        generation = self._pool.generations.get(model)
        if not self._keep or generation is None or generation.state != "ready":
            return swap
        fact = {"model": model, "generation": generation.generation}
        return swap.with_facts(**{KEPT_WARM: fact})

    async def trim(self, swap: Swap) -> None:
        """Let go of models that newer ones push out; ``swap`` may not be saved yet."""
        by_task: defaultdict[str, list[str]] = defaultdict(list)
        for task, model in await self._kept_warm(swap):
            if task not in self._pool.users(model):  # it serves again, so it does not count
                by_task[task].append(model)
        retained = {model for models in by_task.values() for model in models[: self._keep]}
        pushed_out = {model for models in by_task.values() for model in models} - retained
        for model in sorted(pushed_out):
            await self.let_go(model, swap)

    async def let_go(self, model: str, swap: Swap, although_resident: bool = False) -> None:
        """Unload a model, unless something other than ``swap`` needs it."""
        pool = self._pool
        if pool.spec(model).resident and not although_resident:
            return
        if not (pool.users(model) or pool.fallback_users(model)) and not self.is_needed(
            model, swap
        ):
            await pool.unload(model)

    def is_needed(self, model: str, swap: Swap) -> bool:
        """Whether another task, or another open swap, needs a model."""
        if model in self._tested() or any(t != swap.task for t in self._pool.users(model)):
            return True
        other_swaps = (other for other in self._open_swaps() if other.swap_id != swap.swap_id)
        return any(model in _needs(other) for other in other_swaps)

    async def warm(self) -> list[str]:
        """Models that nothing but the rollback window holds, the newest first."""
        needed = self._tested().union(*map(_needs, self._open_swaps()))
        held = (model for _, model in await self._kept_warm() if model not in needed)
        return [*dict.fromkeys(model for model in held if not is_wanted(self._pool, model))]

    async def room(self, *excluded: str) -> Room:
        """Room that can be taken from models kept warm, ``excluded`` ones left out."""
        room = Room()
        for model in await self.warm():
            if model not in excluded:
                room = room.plus(self._room(model))
        return room

    async def give_up(self, spec: ModelSpec) -> bool:
        """Unload the oldest warm model for one that has no room; ``False`` if it would not help."""
        need = room_of(spec, self._pool.measured_bytes.get(spec.id, 0))
        warm = [model for model in await self.warm() if model != spec.id]
        free = (await self._fleet.free()).plus(await self.room(spec.id))
        if not warm or free.lacks(need):
            return False
        try:
            await self._pool.unload(warm[-1])
        except HotswapError:  # it serves again, or cannot be ended just now
            return False
        return True

    def _room(self, model: str) -> Room:
        return room_of(self._pool.spec(model), self._pool.measured_bytes.get(model, 0))

    async def _kept_warm(self, *unsaved: Swap) -> list[tuple[str, str]]:
        """Task and model of what is kept warm and still loaded, the newest first."""
        pool = self._pool
        docs = await asyncio.to_thread(self._store.load_swaps, None, False, HISTORY)
        entries = []
        for task, model, number in kept_warm([*unsaved, *map(Swap.from_doc, docs)]):
            generation = pool.generations.get(model)
            if generation is None or (generation.generation, generation.state) != (number, "ready"):
                continue  # it was unloaded, or loaded again for another use
            entries.append((task, model))
        return entries


def is_wanted(pool: ModelPool, model: str) -> bool:
    """Whether a route uses a model, or it stays loaded in any case."""
    return bool(pool.users(model) or pool.fallback_users(model) or pool.spec(model).resident)


def _needs(swap: Swap) -> set[str]:
    """Models that an open swap has not given up."""
    match swap.phase:
        case Phase.RETIRING:
            return {swap.to_model}
        case Phase.RELEASING | Phase.ROLLING_BACK:
            return {swap.from_model}
        case _:
            return {swap.from_model, swap.to_model}
