"""Drives open swaps along the table: save, act, advance, and again until they end."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from hotswap_ray.actors.swap_actions import SwapActions
from hotswap_ray.core.errors import HotswapError, NotFound, StoreError
from hotswap_ray.core.swap import SWITCHED, Event, Phase, Swap, advance, may
from hotswap_ray.store import Store

RETRY_S = (0.2, 0.5, 1.0, 2.0, 5.0)
log = logging.getLogger("hotswap.swaps")


class SwapRunner:
    """Open swaps, one task each; operators speak to them through a queue.

    Args:
        store: Where every phase is saved before it is entered.
        actions: What is done in each phase.
        clock: Unix seconds.
    """

    def __init__(self, store: Store, actions: SwapActions, clock: Callable[[], float]) -> None:
        self.last_error = ""
        self._store = store
        self._actions = actions
        self._clock = clock
        self._swaps: dict[str, Swap] = {}
        self._signals: dict[str, asyncio.Queue[Event]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._changed = asyncio.Event()

    def open(self) -> list[Swap]:
        """Swaps that have not ended."""
        return list(self._swaps.values())

    async def begin(self, swap: Swap) -> None:
        """Save a new swap and run it.

        Raises:
            StoreError: It could not be saved; it does not exist.
        """
        self._swaps[swap.swap_id] = swap  # before the await: the next request must see it
        try:
            await self._save(swap)
        except StoreError:
            del self._swaps[swap.swap_id]
            raise
        self.resume(swap)

    def adopt(self, swap: Swap) -> None:
        """Know a saved, open swap; ``resume`` runs it."""
        self._swaps[swap.swap_id] = swap

    def resume(self, swap: Swap) -> None:
        """Run a saved swap from its phase."""
        self._signals[swap.swap_id] = asyncio.Queue()
        task = asyncio.create_task(self._drive(swap), name=f"swap:{swap.swap_id}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def find(self, swap_id: str) -> Swap:
        """An open or ended swap.

        Raises:
            NotFound: There is none with this id.
        """
        if swap_id in self._swaps:
            return self._swaps[swap_id]
        doc = await asyncio.to_thread(self._store.load_swap, swap_id)
        if doc is None:
            raise NotFound(f"unknown swap {swap_id!r}; `hotswap status` lists the latest")
        return Swap.from_doc(doc)

    async def signal(self, swap_id: str, event: Event) -> Swap:
        """An operator's ``abort``, ``promote`` or ``rollback``.

        Raises:
            NotFound: Unknown swap.
            IllegalTransition: Not possible in its phase; nothing changed.
        """
        swap = await self.find(swap_id)
        advance(swap, event, self._clock())  # raises, with what is possible instead
        self._signals[swap_id].put_nowait(event)
        return swap

    async def wait(self, swap_id: str, timeout_s: float, until: str = "end") -> Swap:
        """The swap when it has ended, or as it is after ``timeout_s``.

        Args:
            swap_id: The swap.
            timeout_s: Longest wait.
            until: ``end``, or ``switched`` for as soon as the candidate serves.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            changed = self._changed
            swap = await self.find(swap_id)
            left_s = deadline - time.monotonic()
            if not swap.is_open or (until == "switched" and swap.phase in SWITCHED) or left_s <= 0:
                return swap
            try:
                async with asyncio.timeout(left_s):
                    await changed.wait()
            except TimeoutError:
                continue  # one more look, then the record as it is

    async def _drive(self, swap: Swap) -> None:
        failures = 0
        while swap.is_open:
            entered = swap.phase
            swap, event, error = await self._step(swap)
            swap = advance(swap, event, self._clock(), error)
            failures = failures + 1 if swap.phase is entered else 0
            await self._save_until_done(swap)
            if failures:
                await asyncio.sleep(RETRY_S[min(failures, len(RETRY_S)) - 1])
        del self._signals[swap.swap_id], self._swaps[swap.swap_id]
        if swap.phase is Phase.ROLLED_BACK:
            await self._actions.retire_candidate(swap)

    async def _step(self, swap: Swap) -> tuple[Swap, Event, str]:
        """Do the phase's action, unless an operator's event ends it first."""
        signals = self._signals[swap.swap_id]
        action = asyncio.ensure_future(self._actions.action(swap.phase)(swap))
        while True:
            signal = asyncio.ensure_future(signals.get())
            await asyncio.wait({action, signal}, return_when=asyncio.FIRST_COMPLETED)
            if action.done():
                if signal.done():
                    signals.put_nowait(signal.result())  # it may fit the next phase
                signal.cancel()
                return self._result(swap, action)
            event = signal.result()
            if may(swap.phase, event):
                action.cancel()
                await asyncio.wait({action})
                return swap, event, f"{event} by operator"
            log.warning("swap %s ignores %s in %s", swap.swap_id, event, swap.phase)

    def _result(self, swap: Swap, action: asyncio.Future[Swap]) -> tuple[Swap, Event, str]:
        try:
            return action.result(), Event.DONE, ""
        except HotswapError as error:
            return swap, Event.FAILED, f"{error.code}: {error}"[:300]
        except Exception as error:  # the controller's border: recorded, and the table decides
            log.exception("swap %s failed in %s", swap.swap_id, swap.phase)
            self.last_error = f"{type(error).__name__}: {error}"[:300]
            return swap, Event.FAILED, self.last_error

    async def _save_until_done(self, swap: Swap) -> None:
        """A phase is not entered before it is saved; traffic goes on while the store refuses."""
        attempt = 0
        while True:
            try:
                await self._save(swap)
                break
            except StoreError as error:
                self.last_error = f"swap {swap.swap_id} waits for the store: {error}"
                log.error(self.last_error)
                await asyncio.sleep(RETRY_S[min(attempt, len(RETRY_S) - 1)])
                attempt += 1

    async def _save(self, swap: Swap) -> None:
        await asyncio.to_thread(self._store.save_swap, swap.to_doc())
        fact = {"swap_id": swap.swap_id, "task": swap.task, "phase": str(swap.phase)}
        if swap.error:
            fact["error"] = swap.error
        await asyncio.to_thread(self._store.add_event, "swap", fact, self._clock())
        self._swaps[swap.swap_id] = swap
        self._changed.set()
        self._changed = asyncio.Event()
