"""The learning actor's way to the store: one queue, one writer, one commit for a group.

A commit starts as soon as the one before has ended, and takes all that came meanwhile: a
quiet system answers at once, a busy one writes large groups. Order in the queue is order in
the store. An entry stays until it is durable; the queue is bounded, and a full one refuses
an entry before anything of it is taken in.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from tenacity import AsyncRetrying, retry_if_exception_type, wait_exponential

from hotswap_ray.core.errors import RequestError, StoreError, SwapError
from hotswap_ray.core.evidence.cell import Cell
from hotswap_ray.core.outcome import Outcome
from hotswap_ray.store import Store
from hotswap_ray.store.outcomes import KEPT_BATCHES, digest
from hotswap_ray.store.pending import PendingScore

LONGEST_RETRY_S = 10.0
log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class LogEntry:
    """Something to write, and the futures that wait for it."""

    waiters: list[asyncio.Future[None]] = field(default_factory=list, kw_only=True)

    @property
    def rows(self) -> int:
        """Rows it will take."""
        return 1


@dataclass(slots=True, eq=False)
class Batch(LogEntry):
    """Outcomes as one sender put them together."""

    batch_id: str
    outcomes: Sequence[Outcome]

    @property
    def rows(self) -> int:
        """Outcomes in it."""
        return len(self.outcomes)


@dataclass(slots=True, eq=False)
class LateScore(LogEntry):
    """A quality given to one outcome later."""

    request_id: str
    score: float
    idempotency_key: str
    comment: str | None
    cell: Cell
    was_early: bool = False


@dataclass(slots=True, eq=False)
class EarlyScore(LogEntry):
    """A score to keep until its outcome comes; older ones, from before ``before_s``, go."""

    score: PendingScore
    before_s: float


@dataclass(slots=True)
class Checkpoint:
    """Evidence and knowledge as they are with everything in the queue included."""

    evidence: list[dict[str, Any]]
    knowledge: list[dict[str, Any]]
    undo: Callable[[], None]


class LearningLog:
    """Writes groups; retries with growing pauses while the store refuses.

    Args:
        store: Durable state.
        checkpoint: Called when enough rows were written since the last one.
        retry_s: First pause after the store refused; it doubles up to 10 s.
        buffer_rows: Bound on rows that wait.
        checkpoint_rows: Rows between two checkpoints, which bound the replay at start.
        before_s: Unix time before which outcomes may be deleted; asked at checkpoints.
    """

    def __init__(
        self,
        store: Store,
        checkpoint: Callable[[], Checkpoint],
        retry_s: float,
        buffer_rows: int,
        checkpoint_rows: int,
        before_s: Callable[[], float],
    ) -> None:
        self._store = store
        self._checkpoint = checkpoint
        self._retry_s = retry_s
        self._buffer_rows = buffer_rows
        self._checkpoint_rows = checkpoint_rows
        self._before_s = before_s
        self._since_checkpoint = store.last_outcome_id() - store.watermark()
        self._durable = OrderedDict.fromkeys(store.recent_batches())
        self._writer: asyncio.Task[None] | None = None
        self.lock = asyncio.Lock()
        self.entries: deque[LogEntry] = deque()
        self.rows = 0
        self.refused_rows = 0
        self.failures = 0
        self.error: StoreError | None = None

    def is_durable(self, batch_id: str) -> bool:
        """Whether this batch was written, now or before a restart."""
        return digest(batch_id) in self._durable

    def put(self, entry: LogEntry, *, is_owed: bool = False) -> None:
        """Take an entry in.

        Args:
            entry: What to write.
            is_owed: Whether it was promised to somebody, so that no bound keeps it out.

        Raises:
            StoreError: The queue is full because the store refuses; nothing was taken.
        """
        if not is_owed and self.rows + entry.rows > self._buffer_rows:
            self.refused_rows += entry.rows
            raise StoreError(f"{self.rows} outcomes wait for the store: {self.error}", 1.0)
        self.entries.append(entry)
        self.rows += entry.rows
        if self._writer is None or self._writer.done():
            self._writer = asyncio.create_task(self._write_all())

    async def durable(self, entry: LogEntry) -> None:
        """Return when the entry is written.

        Raises:
            StoreError: The store refused; the entry stays and is tried again.
        """
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        entry.waiters.append(waiter)
        await waiter

    async def _write_all(self) -> None:
        while self.entries:
            async for attempt in AsyncRetrying(
                retry=retry_if_exception_type(StoreError),
                wait=wait_exponential(self._retry_s, LONGEST_RETRY_S),
            ):
                with attempt:
                    await self.flush()

    async def flush(self, checkpoint: bool = False) -> None:
        """Write what waits now, in one commit.

        Args:
            checkpoint: Also save evidence and knowledge.

        Raises:
            StoreError: The store refused; everything stays.
        """
        async with self.lock:
            await self.flush_locked(checkpoint)

    async def flush_locked(self, checkpoint: bool = False) -> None:
        """As ``flush``, for a caller that holds ``lock``."""
        entries, rows = list(self.entries), self.rows
        due = self._since_checkpoint + rows >= self._checkpoint_rows
        # Taken before the first await, so that it holds exactly what this commit makes durable.
        saved = self._checkpoint() if checkpoint or due else None
        try:
            await asyncio.to_thread(self._write, entries, saved)
        except Exception as error:  # whatever it is, the waiters get it as an error
            if saved:
                saved.undo()
            self.failures += 1
            self.error = error if isinstance(error, StoreError) else StoreError(repr(error))
            log.warning("learnings wait: %s", self.error)
            _answer_waiters(entries, self.error)
            raise self.error from error
        self.error = None
        self.rows -= rows
        self._since_checkpoint = 0 if saved else self._since_checkpoint + rows
        for entry in entries:
            self.entries.popleft()
            if isinstance(entry, Batch):
                self._durable[digest(entry.batch_id)] = None
        while len(self._durable) > KEPT_BATCHES:
            self._durable.popitem(last=False)
        _answer_waiters(entries, None)

    def _write(self, entries: Sequence[LogEntry], saved: Checkpoint | None) -> None:
        with self._store.transaction():
            for entry in entries:
                if isinstance(entry, Batch):
                    self._store.add_outcomes(entry.outcomes, entry.batch_id)
                elif isinstance(entry, LateScore):
                    # Checked before it was queued; only a deletion since then raises.
                    with suppress(RequestError, SwapError):
                        self._store.set_quality(
                            entry.request_id, entry.score, entry.idempotency_key, entry.comment
                        )
                    if entry.was_early:
                        self._store.drop_pending(entry.request_id)
                elif isinstance(entry, EarlyScore):
                    self._store.keep_pending(entry.score, entry.before_s)
            if saved:
                self._store.save_evidence(saved.evidence, self._store.last_outcome_id())
                for doc in saved.knowledge:
                    self._store.save_knowledge(doc["task"], doc)
                self._store.prune(self._before_s())


def _answer_waiters(entries: Sequence[LogEntry], error: StoreError | None) -> None:
    for entry in entries:
        for waiter in entry.waiters:
            if waiter.done():
                continue
            if error is None:
                waiter.set_result(None)
            else:
                waiter.set_exception(error)
        entry.waiters.clear()
