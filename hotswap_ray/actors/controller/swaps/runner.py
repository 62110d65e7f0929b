"""Drives open swaps along the table: save, act, advance, and again until they end."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial

from tenacity import wait_chain, wait_fixed

from hotswap_ray.actors.cluster.background import Tasks, outlast, outlived
from hotswap_ray.actors.controller.swaps.operator_events import STAYING, Signal, Step, clip
from hotswap_ray.actors.controller.swaps.phases import SwapActions
from hotswap_ray.actors.controller.swaps.webhooks import Webhooks
from hotswap_ray.core.errors import (
    Conflict,
    HotswapError,
    NotFound,
    StoreError,
)
from hotswap_ray.core.spec.webhook import STOPPABLE
from hotswap_ray.core.swap.etag import matches, require
from hotswap_ray.core.swap.phases import SWITCHED, Event, Phase, Swap, advance, may
from hotswap_ray.store import Store

RETRY_S = (0.2, 0.5, 1.0, 2.0, 5.0)
log = logging.getLogger("hotswap.swaps")


class SwapRunner:
    """Open swaps, one per task; operators signal them through a queue.

    Args:
        store: Where every phase is saved before it is entered.
        actions: What is done in each phase.
        webhooks: Sent before and after each phase.
        clock: Unix seconds.
        on_end: Called with each swap that has ended, for metrics.
    """

    def __init__(
        self,
        store: Store,
        actions: SwapActions,
        webhooks: Webhooks,
        clock: Callable[[], float],
        on_end: Callable[[Swap], None] = lambda swap: None,
    ) -> None:
        self.last_error = ""
        self._store = store
        self._actions = actions
        self._webhooks = webhooks
        self._clock = clock
        self._on_end = on_end
        self._swaps: dict[str, Swap] = {}
        self._latest: dict[str, Swap] = {}
        self._signals: dict[str, asyncio.Queue[Signal]] = {}
        self._tasks = Tasks(log)
        self._changed = asyncio.Event()

    def open(self) -> list[Swap]:
        """Swaps that have not ended."""
        return list(self._swaps.values())

    async def begin(self, swap: Swap) -> None:
        """Save a new swap and run it.

        Raises:
            StoreError: It could not be saved; it does not exist.
        """
        self.adopt(swap)  # before the await, so that the next request sees it
        try:
            await self._save(swap, with_event=True)
        except BaseException:
            self._forget(swap)
            self._latest.pop(swap.task, None)
            raise
        self.resume(swap)

    async def latest(self, task: str) -> Swap | None:
        """The newest swap of a task; it is read last, so it is current when this returns."""
        if task not in self._latest:
            for doc in await asyncio.to_thread(self._store.load_swaps, task, False, 1):
                self._latest.setdefault(task, Swap.from_doc(doc))
        return self._latest.get(task)

    def update(self, swap: Swap) -> None:
        """Take over new facts of an open swap, before its phase has ended."""
        if swap.swap_id in self._swaps:
            self._set(swap)

    def adopt(self, swap: Swap) -> None:
        """Take up an open swap without running it; ``resume`` runs it."""
        self._set(swap)
        self._signals[swap.swap_id] = asyncio.Queue()

    def resume(self, swap: Swap) -> None:
        """Run a saved swap from its phase."""
        self._tasks.spawn(self._run(swap.swap_id), f"swap:{swap.swap_id}")

    def _forget(self, swap: Swap) -> None:
        del self._swaps[swap.swap_id]
        signals = self._signals.pop(swap.swap_id)
        while not signals.empty():
            signals.get_nowait().refuse(swap)

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

    async def signal(
        self,
        swap_id: str,
        event: Event,
        undo_id: str = "",
        by: str = "operator",
        if_match: str | None = None,
    ) -> Swap:
        """An operator's ``abort``, ``promote`` or ``rollback``.

        Args:
            swap_id: The swap.
            event: The operator's event.
            undo_id: Id of the request to roll back, kept so that asking again is harmless.
            by: Who sends it.
            if_match: Etag of the record that the operator saw; it still holds when the event
                is acted upon, or nothing is done.

        Returns:
            The record in the phase that the event led to, saved.

        Raises:
            NotFound: Unknown swap.
            PreconditionFailed: It is not as ``if_match`` says; nothing changed.
            IllegalTransition: Not possible in its phase; nothing changed.
        """
        swap = await self.find(swap_id)
        require(swap, if_match)
        advance(swap, event, self._clock())  # raises, with what is possible instead
        if swap_id not in self._signals:
            raise Conflict(f"swap {swap_id} waits for its task and models to be configured again")
        signal = Signal(event, undo_id, by, asyncio.get_running_loop().create_future(), if_match)
        self._signals[swap_id].put_nowait(signal)
        return await signal.answer

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
                continue  # read the record once more before it is returned as it is

    async def _run(self, swap_id: str) -> None:
        # When the action of a phase fails, the table says what follows. Any other error must not
        # stop the swap, so it is driven again from its record.
        await self._outlast(lambda: self._drive(swap_id), f"swap {swap_id}")
        swap = self._swaps[swap_id]
        self._forget(swap)
        with self._outlived(f"the end of swap {swap_id}"):
            self._on_end(swap)
        if swap.phase is Phase.ROLLED_BACK:
            # The candidate is unloaded after the end of the swap, so that a rollback is quick.
            what = f"model {swap.to_model} is not unloaded yet"
            await self._outlast(lambda: self._actions.retire_candidate(swap), what)

    async def _outlast(self, step: Callable[[], Awaitable[None]], what: str) -> None:
        wait = wait_chain(*map(wait_fixed, RETRY_S))
        await outlast(step, what, log, wait, partial(self._record_error, what))

    def _outlived(self, what: str) -> AbstractContextManager[None]:
        return outlived(what, log, partial(self._record_error, what))

    def _record_error(self, what: str, error: Exception) -> None:
        text = str(error) if isinstance(error, HotswapError) else f"{type(error).__name__}: {error}"
        self.last_error = f"{what}: {text}"[:300]

    async def _drive(self, swap_id: str) -> None:
        swap, failures = self._swaps[swap_id], 0
        while swap.is_open:
            phase_before, error_before = swap.phase, swap.error
            step = await self._step(swap)
            swap = step.swap
            if step.event is not None:
                swap = advance(swap, step.event, self._clock(), step.error)
                with_event = swap.phase is not phase_before or swap.error != error_before
                with_event = with_event or step.event in STAYING
                # A phase is entered only once it is saved. Traffic does not wait for the store.
                what = f"swap {swap_id} waits for the store"
                await self._outlast(partial(self._save, swap, with_event), what)
                with self._outlived(f"webhooks of swap {swap_id}"):
                    self._webhooks.after(phase_before, swap)
            if step.signal is not None:
                step.signal.accept(swap)
            stayed = swap.phase is phase_before and step.event not in STAYING
            failures = failures + 1 if stayed else 0
            if failures:
                await asyncio.sleep(RETRY_S[min(failures, len(RETRY_S)) - 1])

    async def _step(self, swap: Swap) -> Step:
        """Do the phase's action, unless an operator's event ends it first."""
        signals = self._signals[swap.swap_id]
        while not signals.empty():
            signal = signals.get_nowait()
            event = signal.event
            if event is Event.ABORT and swap.phase is Phase.SWITCHING:
                event = Event.FAILED  # accepted before the switch began; nothing is committed yet
            if may(swap.phase, event) and matches(swap, signal.if_match):
                return signal.step(swap, event)
            signal.refuse(swap)
        action = asyncio.ensure_future(self._act(swap))
        while True:
            next_signal = asyncio.ensure_future(signals.get())
            await asyncio.wait({action, next_signal}, return_when=asyncio.FIRST_COMPLETED)
            if action.done():
                if next_signal.done():
                    signals.put_nowait(next_signal.result())  # the next phase may accept it
                next_signal.cancel()
                return self._result(action, self._swaps[swap.swap_id])
            signal = next_signal.result()
            current = self._swaps[swap.swap_id]  # the action may have added facts
            if may(swap.phase, signal.event) and matches(current, signal.if_match):
                action.cancel()
                await asyncio.wait({action})
                return signal.step(self._swaps[swap.swap_id], signal.event)
            signal.refuse(current)

    async def _act(self, swap: Swap) -> Swap:
        # Where no webhook may stop the swap, an error of the webhooks must not stop it either.
        may_stop = swap.phase in STOPPABLE
        with nullcontext() if may_stop else self._outlived(f"webhooks of swap {swap.swap_id}"):
            await self._webhooks.before(swap)
        return await self._actions.action(swap.phase)(swap)

    def _result(self, action: asyncio.Future[Swap], swap: Swap) -> Step:
        """The step that an action led to; one that failed goes on from ``swap``."""
        # Where nothing has begun, the table has no FAILED, and ABORT ends the swap.
        failed = Event.FAILED if may(swap.phase, Event.FAILED) else Event.ABORT
        try:
            return Step(action.result(), Event.DONE)
        except StoreError as error:
            # The store is away, the models are fine: the action is repeated when the store is back.
            self.last_error = f"swap {swap.swap_id} waits for the store: {error}"
            log.error(self.last_error)
            return Step(swap, None)
        except HotswapError as error:
            return Step(swap, failed, clip(f"{error.code}: {error}"))
        except (Exception, asyncio.CancelledError) as error:
            # An action may raise anything; it is recorded, and the table decides what follows.
            log.exception("swap %s failed in %s", swap.swap_id, swap.phase)
            self.last_error = clip(f"{type(error).__name__}: {error}")
            return Step(swap, failed, self.last_error)

    async def _save(self, swap: Swap, with_event: bool) -> None:
        await asyncio.to_thread(self._write, swap, with_event)
        self._set(swap)

    def _set(self, swap: Swap) -> None:
        self._swaps[swap.swap_id] = self._latest[swap.task] = swap
        self._changed.set()
        self._changed = asyncio.Event()

    def _write(self, swap: Swap, with_event: bool) -> None:
        event = {"swap_id": swap.swap_id, "task": swap.task, "phase": str(swap.phase)}
        event |= {"from": swap.from_model, "to": swap.to_model}
        if swap.error:
            event["error"] = swap.error
        with self._store.transaction():
            self._store.save_swap(swap.to_doc())
            if with_event:
                self._store.add_event("swap", event, self._clock())
