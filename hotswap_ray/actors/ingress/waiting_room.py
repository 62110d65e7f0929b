"""Requests that wait for another route table, or for a model that is back."""

from __future__ import annotations

import asyncio

from hotswap_ray.core.errors import EngineUnavailable


class WaitingRoom:
    """Holds requests, a bounded number for a bounded time.

    Args:
        most: Requests that may wait at once.

    Attributes:
        waiting: Requests that wait now.
    """

    def __init__(self, most: int) -> None:
        self.waiting = 0
        self._most = most
        self._woken = asyncio.Event()

    def wake(self) -> None:
        """Let every request look again."""
        self._woken.set()
        self._woken = asyncio.Event()

    async def wait(self, until: float, why: str, retry_after_s: float) -> None:
        """Wait for the next ``wake``.

        Args:
            until: Loop time at which the wait ends.
            why: Error message for the client when it does.
            retry_after_s: When it may come again.

        Raises:
            EngineUnavailable: Nothing came in time, or too many wait.
        """
        if self.waiting >= self._most:
            raise EngineUnavailable(f"{why}, and the queue is full", retry_after_s)
        self.waiting += 1
        try:
            async with asyncio.timeout_at(until):
                await self._woken.wait()
        except TimeoutError:
            raise EngineUnavailable(why, retry_after_s) from None
        finally:
            self.waiting -= 1
