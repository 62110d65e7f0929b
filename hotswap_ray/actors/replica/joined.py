"""Items that come close together leave together; none waits for the next, and the first for none.

A message between two processes costs as much as a small answer, so a fast stream travels in few
of them. One task reads the source from its beginning to its end, so that a source may hold what
is bound to its task (time limits, connections), and the reader is woken once a message instead
of once an item.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from types import TracebackType
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Joined(Generic[T]):
    """Reads a source ahead; use it with ``async with``, which closes the source.

    Until the first item that matters nothing leaves: whoever reads may still turn to another
    source. That item leaves at once, with those before it; what comes later leaves as soon as
    ``interval_s`` have passed since the message before, or the source has ended.

    Args:
        source: What is read.
        taken: Takes in an item at the moment it comes (the source may use it again) and gives
            what is passed on, and whether the item matters.
        interval_s: Least time between two messages, in seconds.
    """

    def __init__(
        self,
        source: AsyncGenerator[Any, None],
        taken: Callable[[Any], tuple[T | None, bool]],
        interval_s: float,
    ) -> None:
        self._source = source
        self._taken = taken
        self._interval_s = interval_s
        self._loop = asyncio.get_running_loop()
        self._items: list[T] = []
        self._matters = False
        self._due_s = 0.0
        self._is_due = False
        self._timer: asyncio.TimerHandle | None = None
        self._waiter: asyncio.Future[None] | None = None
        self.ended = False
        """Whether the source has ended; set by the ``take`` that gives the rest."""

    async def __aenter__(self) -> Joined[T]:
        self._task = self._loop.create_task(self._read())
        self._task.add_done_callback(lambda _: self._wake())
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._task.cancel()
        self._stop_timer()
        if not self._task.done():
            await asyncio.wait({self._task})

    async def take(self) -> list[T]:
        """What is to be passed on now; waits until there is something.

        Returns:
            Items in order, the last ones when ``ended`` is set; then also none at all.

        Raises:
            BaseException: What the source raised, after all that came before it was taken; where
                nothing that matters came before it, that is dropped.
        """
        while not (self._is_due or self._task.done()):
            self._waiter = self._loop.create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        self._stop_timer()
        if self._task.done() and not (self._matters and self._items and self._has_failed()):
            self._task.result()
            self.ended = True
        items, self._items = self._items, []
        self._is_due, self._due_s = False, self._loop.time() + self._interval_s
        return items

    async def _read(self) -> None:
        async with aclosing(self._source) as source:
            async for item in source:
                out, matters = self._taken(item)
                if out is None:
                    continue
                self._items.append(out)
                self._matters = self._matters or matters
                if not self._matters:
                    continue
                if self._loop.time() >= self._due_s:
                    self._wake()
                    # A source that never waits must not keep the reader from what is there.
                    await asyncio.sleep(0)
                elif self._timer is None:
                    self._timer = self._loop.call_at(self._due_s, self._wake)

    def _has_failed(self) -> bool:
        return self._task.cancelled() or self._task.exception() is not None

    def _wake(self) -> None:
        self._is_due = True
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
