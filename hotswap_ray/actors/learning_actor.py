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
import difflib
import logging
import re
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any
from uuid import uuid4

from hotswap_ray.actors.feedback import FeedbackDesk
from hotswap_ray.actors.learning_log import Batch, Checkpoint, LearningLog, Score
from hotswap_ray.core.errors import InvalidRequest, NotFound
from hotswap_ray.core.evidence import HALF_LIFE, Cell, Evidence, group, problem
from hotswap_ray.core.learnings import Complexity, TaskKnowledge, TransferRecord, transfer
from hotswap_ray.core.recent import RecentLatencies
from hotswap_ray.core.spec import Preferences, TaskSpec
from hotswap_ray.core.types import Criteria, Outcome
from hotswap_ray.store import Store

NO_MODEL = ""
TASK_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
log = logging.getLogger(__name__)


class LearningActor:
    """The one writer of learnings; rebuilt from the store when it starts.

    Args:
        store: Durable state.
        tasks: What the configuration states.
        clock: Unix seconds; may go backwards.
        flush_s: Longest a call waits for others to share its commit.
        flush_rows: Rows that end that wait early.
        buffer_rows: Bound on rows in memory while the store refuses.
        checkpoint_rows: Rows between two saves of evidence; bounds the replay at start.
        half_life: Observations after which an old one counts half.
        retention_s: Age at which outcomes are deleted; their evidence stays.
        feedback_wait_s: Longest a feedback waits for its outcome to arrive.
        recent_size: Answers kept for ``latency_p99``.
    """

    def __init__(
        self,
        store: Store,
        tasks: Sequence[TaskSpec] = (),
        clock: Callable[[], float] = time.time,
        *,
        flush_s: float = 0.1,
        flush_rows: int = 5_000,
        buffer_rows: int = 200_000,
        checkpoint_rows: int = 20_000,
        half_life: float = HALF_LIFE,
        retention_s: float = 30 * 86_400,
        feedback_wait_s: float = 5.0,
        recent_size: int = 100_000,
    ) -> None:
        self._store = store
        self._clock = clock
        self._half_life = half_life
        self._recent = RecentLatencies(recent_size)
        self._invalid = 0
        self._log = LearningLog(
            store,
            self._snapshot,
            flush_s,
            flush_rows,
            buffer_rows,
            checkpoint_rows,
            lambda: clock() - retention_s,
        )
        self._desk = FeedbackDesk(store, self._log, self._learn_score, feedback_wait_s)
        self._knowledge = _load_knowledge(store)
        self._take(*store.current_evidence(half_life))
        self._configure(tasks)

    def _take(self, cells: dict[Cell, Evidence], unsaved: set[Cell]) -> None:
        """Put evidence from the store in the place of what is in memory."""
        self._cells = cells
        self._dirty = unsaved
        self._tasks: defaultdict[str, list[Evidence]] = defaultdict(list)
        for (task, _), cell in cells.items():
            self._tasks[task].append(cell)
            self._knowledge.setdefault(task, TaskKnowledge(task))

    async def configure(self, tasks: Sequence[TaskSpec]) -> None:
        """Take over requirements and preferences of a changed configuration."""
        self._configure(tasks)

    def _configure(self, tasks: Sequence[TaskSpec]) -> None:
        for spec in tasks:
            known = self._knowledge.get(spec.id) or TaskKnowledge(spec.id)
            self._knowledge[spec.id] = known.configured(spec)

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
            good = [outcome for outcome in batch if self._is_possible(outcome)]
            if not good:
                return 0
            entry = Batch(batch_id, good)
            self._log.put(entry)
            self._fold(good)
        await self._log.durable(entry)
        return len(entry.outcomes)

    def _is_possible(self, outcome: Outcome) -> bool:
        reason = problem(outcome)
        if reason is None:
            return True
        self._invalid += 1
        log.warning("outcome of %s left out: %s", outcome.model, reason)
        return False

    def _fold(self, batch: Sequence[Outcome]) -> None:
        for key, outcomes in group(batch).items():
            self._cell(key).extend(outcomes)
        self._recent.extend(batch)
        self._desk.arrived(batch)

    def _cell(self, key: Cell) -> Evidence:
        self._dirty.add(key)
        cell = self._cells.get(key)
        if cell is None:
            cell = self._cells[key] = Evidence(*key, self._half_life)
            self._tasks[key[0]].append(cell)
            self._knowledge.setdefault(key[0], TaskKnowledge(key[0]))
        return cell

    def _snapshot(self) -> Checkpoint:
        dirty, self._dirty = self._dirty, set()
        tasks = {task for task, _ in dirty}
        for task in tasks:
            self._refresh(task)
        return Checkpoint(
            evidence=[self._cells[key].to_doc() for key in dirty],
            knowledge=[self._knowledge[task].to_doc() for task in tasks],
            undo=lambda: self._dirty.update(dirty),
        )

    def _learn_score(self, key: Cell, score: float) -> None:
        self._cell(key).score((score,))

    def _known(self, task: str) -> TaskKnowledge:
        known = self._knowledge.get(task)
        if known is None:
            close = difflib.get_close_matches(task, self._knowledge, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise NotFound(f"unknown task {task!r}{hint}")
        return known

    def _refresh(self, task: str) -> TaskKnowledge:
        known = self._known(task).observe(self._tasks[task], self._clock())
        self._knowledge[task] = known
        return known

    async def feedback(
        self, request_id: str, score: float, idempotency_key: str, comment: str | None = None
    ) -> dict[str, Any]:
        """Attach a quality to an answer; errors are those of ``FeedbackDesk.give``.

        A score that is earlier than its outcome waits for it, up to ``feedback_wait_s``.

        Args:
            request_id: The ``x-request-id`` of the answer.
            score: In [0, 1].
            idempotency_key: The same key again changes nothing.
            comment: Free text.

        Returns:
            ``request_id``, and the ``task`` and ``model`` the score counts for.
        """
        task, model = await self._desk.give(request_id, score, idempotency_key, comment)
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
        known = self._knowledge.get(task) or TaskKnowledge(task)
        learned = known.learn(self._clock(), preferences, complexity)
        await asyncio.to_thread(self._store.save_knowledge, task, learned.to_doc())
        self._knowledge[task] = learned
        return learned

    async def enhance_criteria(self, criteria: Criteria) -> Criteria:
        """Fill in what a request does not state. Raises ``NotFound`` for an unknown task."""
        return self._known(criteria.task_type).enhance(criteria)

    async def transfer(self, task: str, from_model: str, to_model: str) -> TransferRecord:
        """Hand a task's knowledge to another model; evidence stays with its model.

        Raises:
            NotFound: The task is unknown.
        """
        known = self._refresh(task)
        return transfer(known, self._tasks[task], from_model, to_model, self._clock())

    async def task_performance(self, task: str) -> dict[str, Any]:
        """What is known of a task, and the evidence of each model at it.

        Raises:
            NotFound: The task is unknown.
        """
        doc = self._refresh(task).to_doc()
        return {**doc, "models": [_row(cell) for cell in self._tasks[task]]}

    async def latency_p99(
        self, since_s: float, until_s: float, task: str | None = None
    ) -> dict[str, Any]:
        """99th percentile of recent requests that arrived in a stretch of time.

        Args:
            since_s: Unix time, included.
            until_s: Unix time, excluded.
            task: Only this task.

        Returns:
            ``p99_ms`` (``None`` without requests) and ``count``.
        """
        p99_ms, seen = self._recent.p99(since_s, until_s, task)
        return {"p99_ms": p99_ms, "count": seen}

    async def learnings(self) -> list[dict[str, Any]]:
        """A row per (task, model), for a DataFrame; ``model`` is ``None`` for reports."""
        return [_row(self._cells[key]) for key in sorted(self._cells)]

    async def summary(self) -> dict[str, Any]:
        """Counts over everything, and what is known per task."""
        tasks = {task: self._refresh(task).to_doc() for task in sorted(self._knowledge)}
        return {
            "outcomes": sum(cell.count for cell in self._cells.values()),
            "scores": sum(cell.quality_count for cell in self._cells.values()),
            "cells": len(self._cells),
            "tasks": tasks,
        }

    async def export_lines(self, with_outcomes: bool = True) -> list[str]:
        """All learnings as JSON lines; see ``Store.export_lines``."""
        async with self._log.lock:
            await self._log.flush_locked(checkpoint=True)
            return await asyncio.to_thread(lambda: list(self._store.export_lines(with_outcomes)))

    async def import_lines(self, lines: Iterable[str]) -> dict[str, int]:
        """Take in exported lines, all or none; twice is harmless.

        Raises:
            InvalidRequest: A line cannot be read; it is named.
            StoreError: The store refuses.
        """
        async with self._log.lock:
            await self._log.flush_locked(checkpoint=True)
            counts = await asyncio.to_thread(self._store.import_lines, lines)
            found = await asyncio.to_thread(self._store.current_evidence, self._half_life)
            imported = await asyncio.to_thread(_load_knowledge, self._store)
            self._take(*found)
            for entry in self._log.entries:  # came in meanwhile, not durable yet
                if isinstance(entry, Batch):
                    for key, outcomes in group(entry.outcomes).items():
                        self._cell(key).extend(outcomes)
                elif isinstance(entry, Score):
                    self._learn_score(entry.cell, entry.score)
        for task, known in imported.items():
            mine = self._knowledge.get(task, known)
            # The configuration of this cluster wins over the one the lines came from.
            self._knowledge[task] = replace(
                known,
                requirements=mine.requirements,
                quality_target=mine.quality_target,
                preferences=(known if "preferences" in known.stated else mine).preferences,
            )
        return counts

    async def health(self) -> dict[str, Any]:
        """How the actor and its store do; ``ok`` is false while the store refuses."""
        error = self._log.error
        return {
            "ok": error is None,
            "store_error": None if error is None else error.message,
            "waiting_rows": self._log.rows,
            "refused_rows": self._log.refused_rows,
            "failed_writes": self._log.failures,
            "invalid_outcomes": self._invalid,
            "waiting_feedback": self._desk.waiting,
            "cells": len(self._cells),
            "tasks": len(self._knowledge),
        }

    async def close(self) -> None:
        """Write everything; a restart then replays nothing."""
        await self._log.flush(checkpoint=True)


def _load_knowledge(store: Store) -> dict[str, TaskKnowledge]:
    return {task: TaskKnowledge.from_doc(doc) for task, doc in store.load_knowledge().items()}


def _row(cell: Evidence) -> dict[str, Any]:
    return {**cell.row(), "model": cell.model or None}


def _check_name(task: str) -> None:
    if not TASK_NAME.fullmatch(task):
        raise InvalidRequest(f"{task[:80]!r} is no task name: letters, digits and ._- up to 63")
