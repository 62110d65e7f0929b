"""Scores that people give to answers; each counts once, also when it precedes its outcome."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress

from limits import RateLimitItemPerMinute
from limits.storage import MemoryStorage
from limits.strategies import MovingWindowRateLimiter

from hotswap_ray.actors.learning.early import LONGEST_S, EarlyScores, may_come
from hotswap_ray.actors.learning.log import Batch, EarlyScore, LateScore, LearningLog
from hotswap_ray.core.errors import Conflict, InvalidRequest, NotFound, Overloaded
from hotswap_ray.core.evidence.cell import Cell
from hotswap_ray.core.outcome import Outcome
from hotswap_ray.store import Store
from hotswap_ray.store.outcomes import digest
from hotswap_ray.store.pending import PendingScore

MAX_WAITING = 10_000
MOST_COMMENT = 1_000


def default_keys(request_id: str, score: float) -> tuple[str, str]:
    """Idempotency keys of a score without one: the same score is a retry, another one is not.

    Args:
        request_id: The answer's.
        score: In [0, 1].

    Returns:
        The key to keep, and the one that stores hold of scores given by Python in the past.

    Example:
        >>> default_keys("r1", 1)
        ('score 1.0', 'r1=1')
    """
    return f"score {float(score)!r}", f"{request_id}={score:g}"


class FeedbackDesk:
    """Finds the answer a score is about and passes the score on, in order and once.

    Args:
        store: Where older outcomes are.
        queue: Where outcomes wait that are not durable yet, and where the score goes.
        learn: Takes in ``(cell, request_id, score, source)``.
        wait_s: Longest a score waits for its outcome.
        per_minute: Scores that one source may give.
        clock: Unix seconds.
    """

    def __init__(
        self,
        store: Store,
        queue: LearningLog,
        learn: Callable[[Cell, str, float, str | None], None],
        wait_s: float,
        per_minute: int = 600,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._queue = queue
        self._learn = learn
        self._wait_s = wait_s
        self._allowed = RateLimitItemPerMinute(per_minute)
        self._rate = MovingWindowRateLimiter(MemoryStorage())
        self._clock = clock
        self.early = EarlyScores(store.load_pending(clock() - LONGEST_S))
        self._busy: dict[str, asyncio.Event] = {}
        self._arrivals: dict[str, asyncio.Event] = {}

    @property
    def waiting(self) -> int:
        """Scores that are being worked on."""
        return len(self._busy)

    def arrived(self, batch: Iterable[Outcome]) -> None:
        """Apply the scores that came before these outcomes, which are in the queue by now."""
        last: dict[str, Cell] = {}
        for outcome in batch:
            if not outcome.is_answer:
                continue
            if arrival := self._arrivals.get(outcome.request_id):
                arrival.set()
            if outcome.request_id in self.early:
                last[outcome.request_id] = outcome.task, outcome.model
        for request_id, cell in last.items():
            score = self.early.pop(request_id)
            entry = LateScore(
                *(request_id, score.score, score.idempotency, score.comment, cell), was_early=True
            )
            self._queue.put(entry, is_owed=True)
            self._learn(cell, request_id, score.score, score.source)

    async def give(
        self,
        request_id: str,
        score: float,
        idempotency_key: str | None,
        comment: str | None,
        source: str | None = None,
    ) -> Cell | None:
        """Attach a score; returns when it is durable.

        A score whose answer is not recorded yet is kept for a day, and attached when it is. A
        second score of one answer is refused, whoever gives it, so that scores cannot be turned
        round once they have counted.

        Args:
            request_id: The answer's.
            score: In [0, 1].
            idempotency_key: The same key again changes nothing; without one, the same score.
            comment: Free text.
            source: Whose API key gives it; ``None`` is not limited.

        Returns:
            The task and model it counts for; ``None`` where the answer has still to come.

        Raises:
            InvalidRequest: The score is not a number in [0, 1].
            NotFound: No such request is known, also not after the wait, and none may come.
            Conflict: It was scored already under another key.
            Overloaded: Too many scores wait, or too many came from this source.
            StoreError: The store refuses; the score is kept and tried again.
        """
        if not 0 <= score <= 1:
            raise InvalidRequest(f"score is {score}; it must be in [0, 1]")
        if len(self._busy) >= MAX_WAITING:
            raise Overloaded("too much feedback at once", 1.0)
        if source is not None and not self._rate.hit(self._allowed, source):
            raise Overloaded(
                f"this key gave {self._allowed.amount} scores within a minute "
                "(learning.feedback_per_minute)",
                10.0,
            )
        keys = (idempotency_key,) if idempotency_key else default_keys(request_id, score)
        # One at a time per request, so that of two scores only one finds it without a score.
        while earlier := self._busy.get(request_id):
            await earlier.wait()
        done = self._busy[request_id] = asyncio.Event()
        try:
            return await self._give(request_id, score, keys, comment, source)
        finally:
            del self._busy[request_id]
            done.set()

    async def _give(
        self,
        request_id: str,
        score: float,
        keys: Sequence[str],
        comment: str | None,
        source: str | None,
    ) -> Cell | None:
        if (early := self.early.get(request_id)) or (found := await self._find(request_id)) is None:
            await self._keep(early, request_id, score, keys, comment, source)
            return None
        cell, earlier = found
        if earlier is not None and earlier not in map(digest, keys):
            raise Conflict(f"request {request_id!r} was scored already")
        entry = self._queued_score(request_id)
        if earlier is None:
            entry = LateScore(request_id, score, keys[0], comment, cell)
            self._queue.put(entry)
            self._learn(cell, request_id, score, source)
        if entry is not None:
            await self._queue.durable(entry)
        return cell

    async def _keep(
        self,
        early: PendingScore | None,
        request_id: str,
        score: float,
        keys: Sequence[str],
        comment: str | None,
        source: str | None,
    ) -> None:
        """Keep a score until its answer is recorded."""
        if early is None:
            now_s = self._clock()
            comment = comment and comment.replace("\0", "")[:MOST_COMMENT]
            early = PendingScore(request_id, now_s, score, keys[0], comment, source)
            self.early.add(early)
        elif early.idempotency not in keys:
            raise Conflict(f"request {request_id!r} was scored already")
        # Again for the same key too: the store may have refused it the first time.
        entry = EarlyScore(early, early.at_s - LONGEST_S)
        self._queue.put(entry)
        await self._queue.durable(entry)

    async def _find(self, request_id: str) -> tuple[Cell, bytes | None] | None:
        """The task and model that answered, and the key of an earlier score.

        ``None`` where the answer may still come; nothing has arrived between the last look and
        the return, so that a score that is kept then misses no outcome.
        """
        arrival = self._arrivals[request_id] = asyncio.Event()
        deadline = asyncio.get_running_loop().time() + self._wait_s
        try:
            while True:
                queued = self._queued_score(request_id)
                if queued is not None:
                    return queued.cell, digest(queued.idempotency_key)
                if cell := self._queued_cell(request_id):
                    return cell, None
                stored = await asyncio.to_thread(self._store.find_request, request_id)
                if stored is not None:
                    return (stored.task, stored.model), stored.idempotency
                # Only this wait has a limit, so that a slow store does not become "not found".
                with suppress(TimeoutError):
                    async with asyncio.timeout_at(deadline):
                        await arrival.wait()
                if not arrival.is_set():
                    break
                arrival.clear()
        finally:
            del self._arrivals[request_id]
        if may_come(request_id):
            return None
        raise NotFound(f"no outcome of request {request_id!r} is known")

    def _queued_score(self, request_id: str) -> LateScore | None:
        for entry in self._queue.entries:
            if isinstance(entry, LateScore) and entry.request_id == request_id:
                return entry
        return None

    def _queued_cell(self, request_id: str) -> Cell | None:
        """The answer to the request: the fallback's, when the first model failed."""
        for entry in reversed(self._queue.entries):
            if isinstance(entry, Batch):
                for outcome in reversed(entry.outcomes):
                    if outcome.request_id == request_id and outcome.is_answer:
                        return outcome.task, outcome.model
        return None
