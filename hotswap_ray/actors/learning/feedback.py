"""Scores that people give to answers; each counts once, also when it precedes its outcome."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence

from limits import RateLimitItemPerMinute
from limits.storage import MemoryStorage
from limits.strategies import MovingWindowRateLimiter

from hotswap_ray.actors.learning.log import Batch, LateScore, LearningLog
from hotswap_ray.core.errors import Conflict, InvalidRequest, NotFound, Overloaded
from hotswap_ray.core.evidence.cell import Cell
from hotswap_ray.core.outcome import Outcome
from hotswap_ray.store import Store
from hotswap_ray.store.outcomes import digest

MAX_WAITING = 10_000


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
    """

    def __init__(
        self,
        store: Store,
        queue: LearningLog,
        learn: Callable[[Cell, str, float, str | None], None],
        wait_s: float,
        per_minute: int = 600,
    ) -> None:
        self._store = store
        self._queue = queue
        self._learn = learn
        self._wait_s = wait_s
        self._allowed = RateLimitItemPerMinute(per_minute)
        self._rate = MovingWindowRateLimiter(MemoryStorage())
        self._busy: dict[str, asyncio.Event] = {}
        self._arrivals: dict[str, asyncio.Event] = {}

    @property
    def waiting(self) -> int:
        """Scores that are being worked on."""
        return len(self._busy)

    def arrived(self, batch: Iterable[Outcome]) -> None:
        """Wake the scores that wait for these outcomes."""
        if self._arrivals:
            for outcome in batch:
                if arrival := self._arrivals.get(outcome.request_id):
                    arrival.set()

    async def give(
        self,
        request_id: str,
        score: float,
        idempotency_key: str | None,
        comment: str | None,
        source: str | None = None,
    ) -> Cell:
        """Attach a score; returns the task and model it counts for, when it is durable.

        Args:
            request_id: The answer's.
            score: In [0, 1].
            idempotency_key: The same key again changes nothing; without one, the same score.
            comment: Free text.
            source: Whose API key gives it; ``None`` is not limited.

        Raises:
            InvalidRequest: The score is not a number in [0, 1].
            NotFound: No such request is known, also not after the wait.
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
    ) -> Cell:
        cell, earlier = await self._find(request_id)
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

    async def _find(self, request_id: str) -> tuple[Cell, bytes | None]:
        """The task and model that answered, and the key of an earlier score."""
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
                async with asyncio.timeout_at(deadline):
                    await arrival.wait()
                arrival.clear()
        except TimeoutError:
            raise NotFound(f"no outcome of request {request_id!r} is known") from None
        finally:
            del self._arrivals[request_id]

    def _queued_score(self, request_id: str) -> LateScore | None:
        for entry in self._queue.entries:
            if isinstance(entry, LateScore) and entry.request_id == request_id:
                return entry
        return None

    def _queued_cell(self, request_id: str) -> Cell | None:
        """The last outcome of the request: the fallback's, when the first model failed."""
        for entry in reversed(self._queue.entries):
            if isinstance(entry, Batch):
                for outcome in reversed(entry.outcomes):
                    if outcome.request_id == request_id:
                        return outcome.task, outcome.model
        return None
