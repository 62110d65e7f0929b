"""Publishes the route table to the ingress replicas and takes their acknowledgements.

Save, then publish: every version that a replica has seen is in the store. A commit is complete
when every live ingress replica has acknowledged the version. Replicas register by listening; Ray
is asked which of the silent ones are dead.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection
from contextlib import suppress
from dataclasses import dataclass, field, replace

from hotswap_ray.core.errors import HotswapError, NotFound, StoreError
from hotswap_ray.core.routing.table import Route, RouteTable, unknown

LISTEN_S = 10.0  # a long-poll returns at least this often
CHECK_S = 0.25  # later than this, Ray is asked whether the replica lives


@dataclass(slots=True)
class Listener:
    """The last report of one ingress replica."""

    version: int = -1
    connected: frozenset[str] = frozenset()
    in_flight: dict[str, int] = field(default_factory=dict)
    moving: dict[str, dict[int, int]] = field(default_factory=dict)
    calling: frozenset[str] = frozenset()


async def _no_table() -> RouteTable | None:
    return None


class Publisher:
    """Single writer of the route table.

    Args:
        table: Table to start from.
        save: Makes a table durable before anybody sees it.
        is_alive: Whether the ingress replica with this actor name still runs.
        expected: How many ingress replicas run now.
        reload: Reads the last saved table, after a commit that may have been saved or not.
    """

    def __init__(
        self,
        table: RouteTable,
        save: Callable[[RouteTable], Awaitable[None]],
        is_alive: Callable[[str], Awaitable[bool]],
        expected: Callable[[], Awaitable[int]],
        reload: Callable[[], Awaitable[RouteTable | None]] = _no_table,
    ) -> None:
        self.table = table
        self.listeners: dict[str, Listener] = {}
        self._save = save
        self._is_alive = is_alive
        self._expected = expected
        self._reload = reload
        self._unsure = False
        self._complete = False
        self._lock = asyncio.Lock()
        self._published = asyncio.Event()
        self._acknowledged = asyncio.Event()

    def route(self, task: str) -> Route:
        """The route of a task.

        Raises:
            NotFound: No task has this name.
        """
        if task not in self.table.routes:
            raise NotFound(unknown("task", task, self.table.routes))
        return self.table.routes[task]

    async def listen(self, replica: str, version: int, wait_s: float = LISTEN_S) -> RouteTable:
        """The table as soon as it differs from ``version``; after ``wait_s`` in any case."""
        is_known = replica in self.listeners
        self.listeners.setdefault(replica, Listener())
        # A replica that is new to this process is answered at once, so that it reports its state.
        if is_known and self.table.version == version:
            try:
                async with asyncio.timeout(wait_s):
                    await self._published.wait()
            except TimeoutError:
                pass  # the caller listens again, which shows that it lives
        return self.table

    def acknowledge(
        self,
        replica: str,
        version: int,
        connected: list[str],
        in_flight: dict[str, int],
        moving: dict[str, dict[int, int]] | None = None,
        calling: Collection[str] = (),
    ) -> None:
        """An ingress replica uses ``version``, reaches these applications, and this is in flight.

        Args:
            replica: Its Ray actor name.
            version: Table version in use.
            connected: Applications that answered it.
            in_flight: Requests per application, between choice and last byte.
            moving: Conversations that a step would move, and who has them, by task.
            calling: Applications that have called tools and may still get the results.
        """
        self.listeners[replica] = Listener(
            version, frozenset(connected), dict(in_flight), moving or {}, frozenset(calling)
        )
        self._acknowledged.set()
        self._acknowledged = asyncio.Event()

    async def commit(
        self,
        change: Callable[[RouteTable], RouteTable],
        ack_timeout_s: float,
        save: Callable[[RouteTable], Awaitable[None]] | None = None,
    ) -> float:
        """Save and publish a changed table; wait until every live replica uses it.

        Args:
            change: Pure function from the current table to the next one.
            ack_timeout_s: Longest wait for the replicas; late ones are waited for again
                before anything they might use is taken away.
            save: Saves the table together with something else, in one transaction.

        Returns:
            Milliseconds from publishing to the last acknowledgement.

        Raises:
            StoreError: The table could not be saved; nothing was published.
        """
        # Shielded: a table in the store that memory lacks would make every later commit fail.
        saving = asyncio.ensure_future(self._save_and_publish(change, save or self._save))
        try:
            table, started = await asyncio.shield(saving)
        except asyncio.CancelledError:
            await asyncio.wait({saving})  # or it could overwrite what the canceller saves next
            raise
        await self.wait(lambda listener: listener.version >= table.version, ack_timeout_s)
        return (time.perf_counter() - started) * 1e3

    async def _save_and_publish(
        self,
        change: Callable[[RouteTable], RouteTable],
        save: Callable[[RouteTable], Awaitable[None]],
    ) -> tuple[RouteTable, float]:
        async with self._lock:
            if self._unsure:
                # The store failed at the last commit, which may have been saved or not.
                self.table = await self._reload() or self.table
            table = replace(change(self.table), version=self.table.version + 1)
            try:
                await save(table)
            except StoreError:
                self._unsure = True
                raise
            self._unsure = False
            started = time.perf_counter()
            self.table = table
            self._published.set()
            self._published = asyncio.Event()
        return table, started

    async def wait(self, ok: Callable[[Listener], bool], timeout_s: float) -> bool:
        """Wait until ``ok`` holds for every live ingress replica.

        Never raises: what was committed stays committed if Ray cannot be asked just now.

        Returns:
            Whether it does; ``False`` when ``timeout_s`` ran out.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            acknowledged = self._acknowledged
            late = [name for name, listener in self.listeners.items() if not ok(listener)]
            if not late and await self._is_complete():
                return True
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                return False
            try:
                async with asyncio.timeout(min(CHECK_S, left_s)):
                    await acknowledged.wait()
            except TimeoutError:
                for name in late:
                    with suppress(HotswapError):  # if Ray cannot be asked, the replica may live
                        if not await self._is_alive(name):
                            self.listeners.pop(name, None)

    async def _is_complete(self) -> bool:
        """Whether all replicas that run have been heard of since this process started.

        A replica that starts later listens before it is ready, so once is enough.
        """
        if not self._complete:
            with suppress(HotswapError):
                self._complete = len(self.listeners) >= await self._expected()
        return self._complete

    def moving(self, task: str) -> dict[int, int]:
        """Conversations that a step would move, and who has them, as all replicas know them."""
        moving: dict[int, int] = {}
        for listener in self.listeners.values():
            moving |= listener.moving.get(task, {})
        return moving

    async def prepare(self, app: str, timeout_s: float) -> bool:
        """Wait until every live ingress replica reached ``app``."""
        return await self.wait(lambda listener: app in listener.connected, timeout_s)

    async def loops_ended(self, app: str, timeout_s: float) -> bool:
        """Wait until ``app`` waits for no result of a tool call; before it leaves the table."""
        version = self.table.version
        return await self.wait(
            lambda listener: listener.version >= version and app not in listener.calling,
            timeout_s,
        )

    async def drained(self, app: str, timeout_s: float) -> bool:
        """Wait until no live ingress replica has a request in flight on ``app``.

        Only replicas that use the current version count: an older one could still choose it.
        """
        version = self.table.version
        return await self.wait(
            lambda listener: listener.version >= version and not listener.in_flight.get(app, 0),
            timeout_s,
        )
