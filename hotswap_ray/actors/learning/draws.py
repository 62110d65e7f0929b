"""Where ingress replicas tell each other whom they drew for a conversation; kept in memory only.

A replica knows its own draws, so after a restart of the actor nothing has to be told again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from uuid import uuid4

from hotswap_ray.core.routing.draws import Draw, DrawLog, Place

LISTEN_S = 10.0  # a long-poll returns at least this often


class DrawExchange:
    """The part of the ``LearningActor`` that replicas exchange their draws by."""

    def __init__(self) -> None:
        self._draws = DrawLog(uuid4().hex)
        self._drawn = asyncio.Event()

    async def tell_draws(self, draws: Sequence[Draw]) -> None:
        """Take what a replica drew for conversations."""
        self._draws.extend(draws)
        self._drawn.set()
        self._drawn = asyncio.Event()

    async def hear_draws(self, place: Place, wait_s: float = LISTEN_S) -> tuple[Place, list[Draw]]:
        """What all replicas drew since, as soon as there is any; nothing after ``wait_s``.

        Args:
            place: As the last call returned it; at first ``UNREAD``.
            wait_s: Longest wait, in seconds.
        """
        told = self._draws.after(place)
        if not told[1]:
            try:
                async with asyncio.timeout(wait_s):
                    await self._drawn.wait()
            except TimeoutError:
                pass  # the caller asks again
            told = self._draws.after(place)
        return told
