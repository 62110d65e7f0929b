"""Models that just failed: probed until they answer, and spared requests meanwhile.

A request that Serve gets for a model without a replica waits until one is back, which for
a large model is minutes. So one failure starts a probe, and until it is answered requests
go to the fallback or are told to come back.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

PROBE_S = 5.0  # longest wait for one answer
AGAIN_S = 0.2
log = logging.getLogger("hotswap.ingress")


class Suspects:
    """The applications that failed and have not answered since.

    Lives on one event loop.
    """

    def __init__(self) -> None:
        self._probes: dict[str, asyncio.Task[None]] = {}

    def __contains__(self, app: str) -> bool:
        return app in self._probes

    def add(self, app: str, ping: Callable[[], Awaitable[Any]], wanted: Callable[[], bool]) -> None:
        """Probe ``app`` until it answers; does nothing while that goes on.

        Args:
            app: Application.
            ping: Reaches a replica of it once.
            wanted: Whether anybody still asks for it; otherwise the probe ends.
        """
        if app not in self._probes:
            self._probes[app] = asyncio.create_task(self._probe(app, ping, wanted))

    async def cleared(self, app: str, timeout_s: float) -> bool:
        """Wait until ``app`` is no suspect any more; ``False`` after ``timeout_s``."""
        probe = self._probes.get(app)
        if probe is None:
            return True
        done, _ = await asyncio.wait({probe}, timeout=timeout_s)
        return bool(done)

    async def _probe(
        self, app: str, ping: Callable[[], Awaitable[Any]], wanted: Callable[[], bool]
    ) -> None:
        try:
            while wanted():
                try:
                    async with asyncio.timeout(PROBE_S):
                        await ping()
                    return
                except Exception as error:  # noqa: BLE001 - whatever it is, the model is not back
                    log.info("%s does not answer: %s", app, type(error).__name__)
                    await asyncio.sleep(AGAIN_S)
        finally:
            del self._probes[app]
