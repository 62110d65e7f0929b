"""Publishes the route table to the ingress replicas and hears back from them.

Save, then publish: a version that anybody saw is in the store. A commit is complete when
every live ingress replica says that it uses the version. Replicas make themselves known
by listening; Ray tells which of the silent ones are dead.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace

from hotswap_ray.core.routes import RouteTable

LISTEN_S = 10.0  # a long-poll returns at least this often
CHECK_S = 0.25  # an answer later than this makes us ask Ray whether the replica lives


@dataclass(slots=True)
class Listener:
    """What one ingress replica last said."""

    version: int = -1
    connected: frozenset[str] = frozenset()
    in_flight: dict[str, int] = field(default_factory=dict)


class Publisher:
    """Single writer of the route table.

    Args:
        table: Table to start from.
        save: Makes a table durable before anybody sees it.
        is_alive: Whether the ingress replica with this actor name still runs.
        expected: How many ingress replicas run now.
    """

    def __init__(
        self,
        table: RouteTable,
        save: Callable[[RouteTable], Awaitable[None]],
        is_alive: Callable[[str], Awaitable[bool]],
        expected: Callable[[], Awaitable[int]],
    ) -> None:
        self.table = table
        self.listeners: dict[str, Listener] = {}
        self._save = save
        self._is_alive = is_alive
        self._expected = expected
        self._complete = False
        self._lock = asyncio.Lock()
        self._news = asyncio.Event()
        self._heard = asyncio.Event()

    async def listen(self, replica: str, version: int, wait_s: float = LISTEN_S) -> RouteTable:
        """The table as soon as it differs from ``version``; after ``wait_s`` in any case."""
        self.listeners.setdefault(replica, Listener())
        if self.table.version == version:
            try:
                async with asyncio.timeout(wait_s):
                    await self._news.wait()
            except TimeoutError:
                pass  # the caller listens again; that is how a lost replica is told apart
        return self.table

    def acknowledge(
        self, replica: str, version: int, connected: list[str], in_flight: dict[str, int]
    ) -> None:
        """An ingress replica uses ``version``, reaches these applications, and this is in flight.

        Args:
            replica: Its Ray actor name.
            version: Table version in use.
            connected: Applications that answered it.
            in_flight: Requests per application, between choice and last byte.
        """
        self.listeners[replica] = Listener(version, frozenset(connected), dict(in_flight))
        self._heard.set()
        self._heard = asyncio.Event()

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
        async with self._lock:
            table = replace(change(self.table), version=self.table.version + 1)
            await (save or self._save)(table)
            started = time.perf_counter()
            self.table = table
            self._news.set()
            self._news = asyncio.Event()
        await self.wait(lambda said: said.version >= table.version, ack_timeout_s)
        return (time.perf_counter() - started) * 1e3

    async def wait(self, ok: Callable[[Listener], bool], timeout_s: float) -> bool:
        """Wait until ``ok`` holds for every live ingress replica.

        Returns:
            Whether it does; ``False`` when ``timeout_s`` ran out.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            heard = self._heard
            late = [name for name, said in self.listeners.items() if not ok(said)]
            if not late and await self._is_complete():
                return True
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                return False
            try:
                async with asyncio.timeout(min(CHECK_S, left_s)):
                    await heard.wait()
            except TimeoutError:
                for name in late:
                    if not await self._is_alive(name):
                        self.listeners.pop(name, None)

    async def _is_complete(self) -> bool:
        """Whether all replicas that run have been heard of since this process started.

        A replica that starts later listens before it is ready, so once is enough.
        """
        if not self._complete:
            self._complete = len(self.listeners) >= await self._expected()
        return self._complete

    async def prepare(self, app: str, timeout_s: float) -> bool:
        """Wait until every live ingress replica reached ``app``."""
        return await self.wait(lambda listener: app in listener.connected, timeout_s)

    async def drained(self, app: str, timeout_s: float) -> bool:
        """Wait until no live ingress replica has a request in flight on ``app``.

        Only replicas that use the current version count: an older one could still choose it.
        """
        version = self.table.version
        return await self.wait(
            lambda said: said.version >= version and not said.in_flight.get(app, 0), timeout_s
        )
