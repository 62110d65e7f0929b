"""Models loaded for a benchmark only; they are given back, after a crash too."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import TypeVar

from hotswap_ray.actors.cluster.background import watched
from hotswap_ray.actors.cluster.generation import Generation
from hotswap_ray.actors.controller.models.pool import ModelPool
from hotswap_ray.actors.controller.models.retention import is_wanted
from hotswap_ray.core.errors import Conflict, HotswapError
from hotswap_ray.core.swap.phases import SWITCHED, Swap
from hotswap_ray.store import Store

SETTING = "bench_loans"
WATCH_S = 1.0
T = TypeVar("T")
log = logging.getLogger("hotswap.bench")


class Loans:
    """Loads, or wakes, models for a while.

    A loan is saved before the model is asked for, so that a controller that restarts gives
    it back.

    Args:
        pool: Models.
        store: Durable state.
        swaps: Open swaps.
    """

    def __init__(self, pool: ModelPool, store: Store, swaps: Callable[[], list[Swap]]) -> None:
        self._pool = pool
        self._store = store
        self._swaps = swaps
        self._lent: dict[str, str] | None = None
        self._saved: dict[str, str] = {}

    @asynccontextmanager
    async def borrow(self, model: str) -> AsyncIterator[Generation]:
        """A model that answers, as it was before once the context ends.

        Raises:
            InsufficientResources: No room, after a bounded wait.
            EngineLoadFailed: It did not come up.
            Conflict: A swap began, whose room this must not take.
            StoreError: The loan could not be saved; nothing was loaded.
        """
        held = self._pool.generations.get(model)
        try:
            if held is None or held.state == "asleep":
                (await self._loans())[model] = "sleep" if held else "unload"
                await self._save()
                await self.make_way(model)
            yield await watched(self._pool.load(model), partial(self.make_way, model), WATCH_S)
        finally:
            await self._give_back(model)

    async def make_way(self, model: str) -> None:
        """Refuse a benchmark the room of a lent model while a swap may need that room.

        Raises:
            Conflict: It is lent, and a swap may need the room.
        """
        for swap in self._swaps() if model in (self._lent or {}) else ():
            if model not in (swap.from_model, swap.to_model) and swap.phase not in SWITCHED:
                raise Conflict(f"makes way for swap {swap.swap_id} of task {swap.task!r}", 30.0)

    def keep(self, model: str) -> None:
        """Keep a lent model loaded after the benchmark, since something else needs it."""
        if self._lent:
            self._lent.pop(model, None)

    async def clean_up(self, is_busy: Callable[[], bool]) -> None:
        """Give back what is left, of this controller or the one before.

        Args:
            is_busy: Whether a benchmark runs, which then gives back its loans itself.
        """
        for model in list(await self._loans()):
            if is_busy():  # one may begin at any moment
                return
            await self._give_back(model)
        await self._save()

    async def _give_back(self, model: str) -> None:
        lent = await self._loans()
        try:
            if self._is_needed(model):
                pass
            elif lent.get(model) == "unload":
                await self._pool.unload(model)
            elif lent.get(model) == "sleep" and self._pool.is_ready(model):
                await self._pool.sleep(model)
            lent.pop(model, None)
            await self._save()
        except Conflict:
            lent.pop(model, None)  # a task is served by it now
        except HotswapError as error:
            log.warning("model %s is not given back yet: %s", model, error)

    def _is_needed(self, model: str) -> bool:
        return (
            model not in self._pool.specs  # it left the configuration, and the start deleted it
            or is_wanted(self._pool, model)
            or any(model in (swap.from_model, swap.to_model) for swap in self._swaps())
        )

    async def _loans(self) -> dict[str, str]:
        if self._lent is None:
            saved = (await asyncio.to_thread(self._store.load_settings)).get(SETTING, {})
            if self._lent is None:
                self._lent, self._saved = dict(saved), dict(saved)
        return self._lent

    async def _save(self) -> None:
        lent = dict(await self._loans())
        if lent != self._saved:
            await asyncio.to_thread(self._store.save_setting, SETTING, lent)
            self._saved = lent
