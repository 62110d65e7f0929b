"""How late the event loop is, which shows that a replica or its machine is overloaded."""

from __future__ import annotations

import asyncio

TICK_S = 0.02
LATE_S = 0.005
FADE = 0.9
"""Share of a tick's lateness that the next keeps: 20 ms count as late for a quarter of a second."""
UNASKED_S = 5.0


class LoopLag:
    """A timer that measures how late it fires; it runs only while ``busy`` is called.

    Lives on one event loop.

    Args:
        late_s: Lateness from which the loop is busy.
    """

    def __init__(self, late_s: float = LATE_S) -> None:
        self.lag_s = 0.0
        self._late_s = late_s
        self._due_s = 0.0
        self._asked_s = 0.0
        self._runs = False

    def busy(self) -> bool:
        """Whether the loop was late a moment ago; the first call only starts the timer."""
        loop = asyncio.get_running_loop()
        self._asked_s = loop.time()
        if not self._runs:
            self._runs, self.lag_s = True, 0.0
            self._wait(loop)
        return self.lag_s > self._late_s

    def _wait(self, loop: asyncio.AbstractEventLoop) -> None:
        self._due_s = loop.time() + TICK_S
        loop.call_at(self._due_s, self._tick, loop)

    def _tick(self, loop: asyncio.AbstractEventLoop) -> None:
        self.lag_s = max(loop.time() - self._due_s, self.lag_s * FADE)
        self._runs = loop.time() - self._asked_s < UNASKED_S
        if self._runs:
            self._wait(loop)
