"""The last answers' latencies with their arrival times, to compare two stretches of time."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from hotswap_ray.core.outcome import Outcome


class RecentLatencies:
    """A ring of the newest successful answers; 20 bytes each.

    Args:
        size: Answers kept; the oldest are overwritten.
    """

    def __init__(self, size: int = 100_000) -> None:
        self._at_s = np.full(size, -np.inf)
        self._latency_ms = np.zeros(size, dtype=np.float32)
        self._task = np.full(size, -1, dtype=np.int32)
        self._numbers: dict[str, int] = {}
        self._next = 0

    def extend(self, batch: Iterable[Outcome]) -> None:
        """Keep the successes of a batch, in any order of arrival."""
        numbers = self._numbers
        rows = [
            (o.at_s, o.latency_ms, numbers.setdefault(o.task, len(numbers)))
            for o in batch
            if o.success
        ]
        if not rows:
            return
        size = len(self._at_s)
        slots = (self._next + np.arange(len(rows))) % size
        columns = np.array(rows, dtype=np.float64).T
        self._at_s[slots], self._latency_ms[slots], self._task[slots] = columns
        self._next = int((self._next + len(rows)) % size)

    def p99(
        self, since_s: float, until_s: float, task: str | None = None
    ) -> tuple[float | None, int]:
        """99th percentile in ms of requests that arrived in a stretch, and their number.

        Args:
            since_s: Unix time, included.
            until_s: Unix time, excluded.
            task: Only this task.
        """
        mask = (self._at_s >= since_s) & (self._at_s < until_s)
        if task is not None:
            mask &= self._task == self._numbers.get(task, -2)
        latencies = self._latency_ms[mask]
        return (float(np.quantile(latencies, 0.99)) if len(latencies) else None), len(latencies)

    def rate(self, now_s: float, task: str, over_s: float = 300.0) -> float:
        """Answers of a task a second, over the last ``over_s``."""
        recent = (self._at_s >= now_s - over_s) & (self._task == self._numbers.get(task, -2))
        return int(recent.sum()) / over_s
