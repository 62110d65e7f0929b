"""Learns from every outcome, off the request path. Plain class; ``app.py`` makes the actor.

What "acknowledged" means: ``record`` and ``feedback`` return when their data is durable.
Memory is updated at once; a group of waiting calls then shares one commit. When the store
refuses, the calls fail with ``StoreError``, the data stays in a bounded buffer that is
tried again, and sending the same batch id again is harmless. A full buffer takes nothing
in, so the sender keeps it. Evidence is saved with the id of the last outcome in it, in the
commit that writes that outcome: a restart adds exactly what is missing.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any
from uuid import uuid4

from hotswap_ray.actors.learning.draws import DrawExchange
from hotswap_ray.actors.learning.feedback import FeedbackDesk
from hotswap_ray.actors.learning.log import Batch, Checkpoint, LearningLog
from hotswap_ray.actors.learning.queries import LearningQueries, load_knowledge, load_prices
from hotswap_ray.core.autoswap.decider import Decider
from hotswap_ray.core.autoswap.view import Look, ModelFacts, TaskView
from hotswap_ray.core.errors import InvalidRequest, StoreError
from hotswap_ray.core.evidence.cell import HALF_LIFE, Cell, problem
from hotswap_ray.core.evidence.knowledge import Complexity, TaskKnowledge, TransferRecord, transfer
from hotswap_ray.core.evidence.learnings import Learnings
from hotswap_ray.core.evidence.recent import RecentLatencies
from hotswap_ray.core.outcome import Criteria, Outcome, RoutingDecision
from hotswap_ray.core.policies.selection import Arm
from hotswap_ray.core.spec.price import Price
from hotswap_ray.core.spec.task import Preferences, TaskSpec
from hotswap_ray.store import Store

NO_MODEL = ""
ASIDE = frozenset({RoutingDecision.SHADOW, RoutingDecision.BENCH, RoutingDecision.GOLDEN})
"""Decisions of requests that no client waited for."""
TASK_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
log = logging.getLogger(__name__)


class LearningActor(LearningQueries, DrawExchange):
    """The one writer of learnings; rebuilt from the store when it starts.

    Args:
        store: Durable state.
        tasks: What the configuration states.
        clock: Unix seconds; may go backwards.
        retry_s: First pause after the store refused; it doubles up to 10 s.
        buffer_rows: Bound on rows in memory while the store refuses.
        checkpoint_rows: Rows between two saves of evidence; bounds the replay at start.
        half_life: Observations after which an old one counts half.
        retention_s: Age at which outcomes are deleted; their evidence stays.
        feedback_wait_s: Longest a feedback waits for its outcome to arrive.
        recent_size: Answers kept for ``latency_p99``.
        one_key_decides: Whether the scores of one API key may bring about a swap.
        feedback_per_minute: Scores that one API key may give.
        prices: Of tokens, by configured model.
    """

    def __init__(
        self,
        store: Store,
        tasks: Sequence[TaskSpec] = (),
        clock: Callable[[], float] = time.time,
        *,
        retry_s: float = 0.1,
        buffer_rows: int = 200_000,
        checkpoint_rows: int = 20_000,
        half_life: float = HALF_LIFE,
        retention_s: float = 30 * 86_400,
        feedback_wait_s: float = 2.0,
        recent_size: int = 100_000,
        one_key_decides: bool = False,
        feedback_per_minute: int = 600,
        prices: Mapping[str, Price] | None = None,
    ) -> None:
        DrawExchange.__init__(self)
        self._store = store
        self._clock = clock
        self._started_s = clock()
        self._half_life = half_life
        self._recent = RecentLatencies(recent_size)
        self._wrong_forms: dict[Cell, str] = {}  # the last of each, for people
        self._invalid = 0
        self._log = LearningLog(
            store,
            self._checkpoint,
            retry_s,
            buffer_rows,
            checkpoint_rows,
            lambda: clock() - retention_s,
        )
        self._learnings = Learnings(half_life)
        self._learnings.prices = load_prices(store, prices or {})
        self._desk = FeedbackDesk(
            store, self._log, self._scored, feedback_wait_s, feedback_per_minute, clock
        )
        self._learnings.knowledge.update(load_knowledge(store))
        self._learnings.take(*store.current_evidence(half_life))
        self._learnings.configure(tasks)
        self._decider = Decider(self._learnings, one_key_decides)
        self._decider.load(store.load_experiments())
        self._decider.on_alarm = lambda: self._alarm.set()
        self._alarm = asyncio.Event()

    def _scored(self, cell: Cell, request_id: str, score: float, source: str | None) -> None:
        self._learnings.score(cell, score)
        self._decider.score(cell, request_id, score, source)

    def _checkpoint(self) -> Checkpoint:
        learned, now_s = self._learnings, self._clock()
        dirty, learned.dirty = learned.dirty, set()
        return Checkpoint(
            evidence=[learned.cells[key].to_doc() for key in dirty],
            knowledge=[learned.refresh(task, now_s).to_doc() for task in {t for t, _ in dirty}],
            undo=lambda: learned.dirty.update(dirty),
        )

    async def record(self, batch: Sequence[Outcome], batch_id: str) -> int:
        """Learn from outcomes; returns when they are durable.

        Args:
            batch: In the order in which they ended. Impossible values are left out and
                counted, the rest is kept.
            batch_id: The same id again, also after a restart, changes nothing.

        Returns:
            Outcomes taken in; 0 when the batch was known already.

        Raises:
            StoreError: The store refuses. Send the batch again under the same id.
        """
        if self._log.is_durable(batch_id):
            return 0
        entry = next(
            (e for e in self._log.entries if isinstance(e, Batch) and e.batch_id == batch_id), None
        )
        if entry is None:
            possible = [outcome for outcome in batch if self._is_possible(outcome)]
            if not possible:
                return 0
            entry = Batch(batch_id, possible)
            self._log.put(entry)
            self._learnings.fold(possible)
            self._decider.take([outcome for outcome in possible if outcome.is_evidence])
            self._recent.extend(outcome for outcome in possible if outcome.decision not in ASIDE)
            self._wrong_forms |= {(o.task, o.model): o.wrong_form for o in possible if o.wrong_form}
            self._desk.arrived(possible)
        await self._log.durable(entry)
        return len(entry.outcomes)

    def _is_possible(self, outcome: Outcome) -> bool:
        reason = problem(outcome)
        if reason is None:
            return True
        self._invalid += 1
        log.warning("outcome of %s left out: %s", outcome.model, reason)
        return False

    async def feedback(
        self,
        request_id: str,
        score: float,
        idempotency_key: str | None = None,
        comment: str | None = None,
        source: str | None = None,
    ) -> dict[str, Any]:
        """Attach a quality to an answer; errors are those of ``FeedbackDesk.give``.

        A score that is earlier than its outcome waits for it, up to ``feedback_wait_s``; then
        it is kept, and counts as soon as the outcome comes.

        Args:
            request_id: The ``x-request-id`` of the answer.
            score: In [0, 1].
            idempotency_key: The same key again changes nothing. Without one, the same score
                again changes nothing and another one is refused.
            comment: Free text.
            source: API key that gives it; one source alone decides nothing. ``None`` is
                trusted.

        Returns:
            ``request_id``, and the ``task`` and ``model`` the score counts for; of a score that
            is kept these are ``None``, and ``pending`` is true.
        """
        cell = await self._desk.give(request_id, score, idempotency_key, comment, source)
        if cell is None:
            return {"request_id": request_id, "task": None, "model": None, "pending": True}
        task, model = cell
        return {"request_id": request_id, "task": task, "model": model}

    async def record_task_performance(
        self,
        task: str,
        latency_ms: float,
        quality: float | None,
        memory_bytes: int,
        success: bool,
    ) -> None:
        """Learn about a task from work that no model of ours did.

        Args:
            task: Task id; a new one is made.
            latency_ms: Time it took.
            quality: In [0, 1]; ``None`` when nobody judged it.
            memory_bytes: Memory it took; 0 when unknown.
            success: Whether it worked.

        Raises:
            InvalidRequest: A value is out of range, or the name is none.
            StoreError: The store refuses; it is kept and tried again.
        """
        _check_name(task)
        name = f"report-{uuid4().hex}"
        outcome = Outcome(
            request_id=name,
            task=task,
            model=NO_MODEL,
            generation=0,
            decision="reported",
            at_s=self._clock(),
            success=success,
            latency_ms=latency_ms,
            memory_bytes=memory_bytes,
            quality=quality,
        )
        if reason := problem(outcome):
            raise InvalidRequest(reason)
        await self.record([outcome], name)

    async def learn_task_characteristics(
        self,
        task: str,
        preferences: Preferences | None = None,
        complexity: Complexity | None = None,
    ) -> TaskKnowledge:
        """State what matters for a task; outlasts restarts and the configuration.

        Raises:
            InvalidRequest: The task's name is none, or the complexity is unknown.
            StoreError: The store refuses; nothing changed.
        """
        _check_name(task)
        if complexity not in (None, "low", "medium", "high"):
            raise InvalidRequest(f"complexity is {complexity!r}; use low, medium or high")
        # Under the lock, so that an earlier checkpoint is not written over this.
        async with self._log.lock:
            earlier = self._learnings.knowledge.get(task) or TaskKnowledge(task)
            learned = earlier.learn(self._clock(), preferences, complexity)
            await asyncio.to_thread(self._store.save_knowledge, task, learned.to_doc())
            self._learnings.knowledge[task] = learned
        return learned

    async def enhance_criteria(self, criteria: Criteria) -> Criteria:
        """Fill in what a request does not state. Raises ``NotFound`` for an unknown task."""
        return self._learnings.known(criteria.task_type).enhance(criteria)

    async def transfer(self, task: str, from_model: str, to_model: str) -> TransferRecord:
        """Hand a task's knowledge to another model; evidence stays with its model.

        Raises:
            NotFound: The task is unknown.
        """
        now_s = self._clock()
        knowledge = self._learnings.refresh(task, now_s)
        prior = self._learnings.prior(task, to_model)
        return transfer(
            knowledge, self._learnings.of_task(task), from_model, to_model, now_s, prior
        )

    # --- decisions ----------------------------------------------------------------------

    async def look(
        self,
        views: Sequence[TaskView],
        models: Mapping[str, ModelFacts],
        kept: frozenset[str] = frozenset(),
        wait_s: float = 0.0,
    ) -> Look:
        """Decide about every task; see ``Decider.look``.

        Args:
            views: The tasks as the controller has them.
            models: Facts of every model.
            kept: Models that are never unloaded.
            wait_s: Longest wait for an alarm before the look; an alarm ends it at once.
        """
        if wait_s:
            with suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await self._alarm.wait()
        self._alarm.clear()
        now_s = self._clock()
        result = self._decider.look(views, models, now_s, partial(self._recent.rate, now_s), kept)
        try:
            await self._save_tests()
        except StoreError as error:  # saved at the next look; the result holds
            log.warning("running tests are not saved yet: %s", error)
        return result

    async def _save_tests(self) -> None:
        if self._decider.forgot:  # saved, so that it does not come back with a restart
            await self._log.flush(checkpoint=True)
            self._decider.forgot = False
        if docs := self._decider.changed_docs():
            try:
                await asyncio.to_thread(self._store.save_experiments, docs)
            except StoreError:
                self._decider.not_saved(docs)
                raise

    async def take_prices(self, prices: Mapping[str, Price]) -> None:
        """Set the prices of tokens.

        Args:
            prices: Of every model, by id; a model that is missing has none.
        """
        self._learnings.prices = dict(prices)

    async def nudge(self) -> None:
        """End the wait of a look that is under way."""
        self._alarm.set()

    async def arms(self) -> dict[str, tuple[Arm, ...]]:
        """Beliefs about each model that may be tried, by task; for the ingress."""
        return self._decider.arms

    async def close(self) -> None:
        """Write everything; a restart then replays nothing."""
        await self._log.flush(checkpoint=True)


def _check_name(task: str) -> None:
    if not TASK_NAME.fullmatch(task):
        raise InvalidRequest(f"{task[:80]!r} is no task name: letters, digits and ._- up to 63")
