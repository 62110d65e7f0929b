"""Warnings of what may happen a thousand times a second."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable

EVERY_S = 60.0


class LogLimit:
    """Warns at once, and then at most once per span; a metric has the number.

    Args:
        log: Where warnings go.
        every_s: The span, in seconds.
        clock: Seconds, never going back.
    """

    def __init__(
        self,
        log: logging.Logger,
        every_s: float = EVERY_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._log = log
        self._every_s = every_s
        self._clock = clock
        self._last_s = -math.inf

    def warn(self, text: str, *args: object) -> None:
        """Warn, unless it was done a moment ago."""
        now_s = self._clock()
        if now_s - self._last_s >= self._every_s:
            self._last_s = now_s
            self._log.warning(text, *args)
