"""Models that failed or do not answer: probed until they do, and sent no requests meanwhile.

A request that Serve gets for a model without a replica waits until one is back, which for
a large model is minutes. So a failure starts a probe, and so does silence while requests
wait; until the probe is answered requests go to the fallback, those that wait included.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from operator import not_
from typing import Any

from tenacity import AsyncRetrying, retry_if_result, wait_fixed

from hotswap_ray.actors.cluster.background import Tasks

PROBE_S = 5.0  # a model that does not answer within this has no replica
AGAIN_S = 0.2
QUIET_S = 1.0  # a model that answered nothing for so long is pinged
Ping = Callable[[], Awaitable[Any]]
log = logging.getLogger("hotswap.ingress")


class Suspects:
    """Applications that may have no replica, and the requests that could go elsewhere.

    Lives on one event loop.

    Args:
        wanted: Whether an application is still in use; otherwise its probe ends.
        on_cleared: Called when an application is no suspect any more.
    """

    def __init__(self, wanted: Callable[[str], bool], on_cleared: Callable[[], None]) -> None:
        self._wanted = wanted
        self._on_cleared = on_cleared
        self._suspected: set[str] = set()
        self._tasks = Tasks(log)
        self._probes: dict[str, asyncio.Task[None]] = {}
        self._answered_s: dict[str, float] = {}
        self._waiting: defaultdict[str, set[asyncio.Timeout]] = defaultdict(set)

    def __contains__(self, app: str) -> bool:
        return app in self._suspected

    def heard(self, app: str) -> None:
        """Record that an application has just answered."""
        self._answered_s[app] = asyncio.get_running_loop().time()

    def add(self, app: str, ping: Ping) -> None:
        """Suspect ``app`` until it answers a ping."""
        self._suspected.add(app)
        self._start(app, ping)

    def ask_if_quiet(self, app: str, ping: Ping) -> None:
        """Ping ``app`` if it has not answered lately; it is suspect if the ping fails."""
        if asyncio.get_running_loop().time() - self._answered_s.get(app, 0.0) >= QUIET_S:
            self._start(app, ping)

    @contextmanager
    def may_leave(self, app: str, limit: asyncio.Timeout) -> Iterator[None]:
        """Let ``limit`` expire when ``app`` does not answer, as this request has a fallback."""
        self._waiting[app].add(limit)
        try:
            yield
        finally:
            self._waiting[app].discard(limit)

    def _start(self, app: str, ping: Ping) -> None:
        if app not in self._probes:
            self._probes[app] = self._tasks.spawn(self._probe(app, ping), f"probe:{app}")

    async def _probe(self, app: str, ping: Ping) -> None:
        probing = AsyncRetrying(
            retry=retry_if_result(not_), wait=wait_fixed(AGAIN_S), sleep=asyncio.sleep
        )
        try:
            await probing(self._is_over, app, ping)
        finally:
            del self._probes[app]
            self._suspected.discard(app)
            self._on_cleared()

    async def _is_over(self, app: str, ping: Ping) -> bool:
        """Whether a probe ends: the model answers, or is not in use any more."""
        if not self._wanted(app):
            self._answered_s.pop(app, None)
            self._waiting.pop(app, None)
            return True
        try:
            async with asyncio.timeout(PROBE_S):
                await ping()
        except Exception as error:  # noqa: BLE001 - whatever it is, the model is not back
            log.warning("%s does not answer: %s", app, type(error).__name__)
        else:
            self.heard(app)
            return True
        self._suspected.add(app)
        now_s = asyncio.get_running_loop().time()
        for limit in self._waiting.pop(app, ()):
            limit.reschedule(now_s)
        return False
