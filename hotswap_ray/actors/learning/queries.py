"""Queries of the learnings: tables, summaries, export and import, health."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import ValidationError

from hotswap_ray.actors.learning.feedback import FeedbackDesk
from hotswap_ray.actors.learning.log import Batch, LateScore, LearningLog
from hotswap_ray.core.evidence.calibration import observe
from hotswap_ray.core.evidence.cell import Cell
from hotswap_ray.core.evidence.knowledge import TaskKnowledge
from hotswap_ray.core.evidence.learnings import Learnings
from hotswap_ray.core.evidence.prediction import Known, predict
from hotswap_ray.core.evidence.recent import RecentLatencies
from hotswap_ray.core.outcome import NEUTRAL, Ending, RoutingDecision
from hotswap_ray.core.rollout.guardrails import Seen
from hotswap_ray.core.spec.price import Price
from hotswap_ray.core.spec.task import ModelSpec
from hotswap_ray.store import Store

ACTUAL_ROWS = 10_000
UNSEEN = (RoutingDecision.SHADOW, RoutingDecision.BENCH, RoutingDecision.GOLDEN)
"""Decisions whose answers no client got."""
ROLLOUT_ROWS = 50_000
COMPARED = (
    RoutingDecision.ACTIVE,
    RoutingDecision.SHADOWED,
    RoutingDecision.CANARY,
    RoutingDecision.AB_TEST,
)
RATE_S = 60.0
"""Stretch of time that the traffic is measured over."""
log = logging.getLogger(__name__)


class LearningQueries:
    """The methods of ``LearningActor`` that only read, and those that export and import."""

    _store: Store
    _clock: Callable[[], float]
    _started_s: float
    _half_life: float
    _recent: RecentLatencies
    _wrong_forms: Mapping[Cell, str]
    _invalid: int
    _log: LearningLog
    _learnings: Learnings
    _desk: FeedbackDesk

    async def task_performance(self, task: str) -> dict[str, Any]:
        """What is known of a task, and the evidence of each model at it.

        Raises:
            NotFound: The task is unknown.
        """
        knowledge = self._learnings.refresh(task, self._clock())
        return {**knowledge.to_doc(), "models": self._learnings.rows(task)}

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
        p99_ms, count = self._recent.p99(since_s, until_s, task)
        return {"p99_ms": p99_ms, "count": count}

    async def rates(self) -> dict[str, float]:
        """Answers a second by task, over the last minute; nothing in the first minute."""
        now_s = self._clock()
        if now_s - self._started_s < RATE_S:
            return {}  # the traffic before the start is not known
        return {task: self._recent.rate(now_s, task, RATE_S) for task in self._learnings.knowledge}

    async def observed(self, task: str, models: Sequence[str], since_s: float) -> dict[str, Seen]:
        """Requests of a task since a Unix time, by model.

        Only those whose model was drawn, since requests that pin a model are no fair sample. Of
        many requests the newest 50,000 count.
        """
        await self._log.flush()
        frame = await asyncio.to_thread(
            self._store.outcomes_frame, task, None, since_s, ROLLOUT_ROWS
        )
        frame = frame[frame["decision"].isin(COMPARED) & ~frame["ending"].isin(NEUTRAL)]
        return {model: self._seen(task, model, frame[frame["model"] == model]) for model in models}

    def _seen(self, task: str, model: str, frame: pd.DataFrame) -> Seen:
        def column(name: str) -> NDArray[np.float64]:
            return frame[name].to_numpy(dtype=float, na_value=np.nan)

        return Seen(
            success=column("success"),
            latency_ms=column("latency_ms"),
            ttft_ms=column("ttft_ms"),
            quality=column("quality"),
            at_s=column("at_s"),
            cost_usd=self._learnings.costs_usd(model, column("tokens_in"), column("tokens_out")),
            format_ok=column("format_ok"),
            refused=(frame["ending"] == Ending.REFUSAL).to_numpy().astype(np.float64),
            wrong_form=self._wrong_forms.get((task, model), ""),
        )

    async def learnings(self) -> list[dict[str, Any]]:
        """A row per (task, model), for a DataFrame; ``model`` is ``None`` for reports."""
        return self._learnings.rows()

    async def outcomes(
        self,
        task: str | None = None,
        model: str | None = None,
        since_s: float | None = None,
        limit: int = 10_000,
    ) -> Any:
        """The newest outcomes as a DataFrame; see ``Store.outcomes_frame``."""
        await self._log.flush()
        return await asyncio.to_thread(self._store.outcomes_frame, task, model, since_s, limit)

    async def predict(self, task: str, model: str, known: Known) -> dict[str, Any]:
        """What a model is expected to do at a task; see ``core.evidence.prediction.predict``.

        Raises:
            NotFound: The task is unknown.
        """
        self._learnings.known(task)
        return predict(task, model, self._learnings.cells, known).to_doc()

    async def actual(self, task: str, model: str, since_s: float) -> dict[str, Any] | None:
        """What a model did at a task in live traffic since a Unix time; see ``observe``."""
        frame = await self.outcomes(task, model, since_s, ACTUAL_ROWS)
        left_out = frame["decision"].isin(UNSEEN) | frame["ending"].isin(NEUTRAL)
        return observe(frame[~left_out].to_dict("records"))

    async def summary(self) -> dict[str, Any]:
        """Counts over everything, and what is known per task."""
        learned, now_s = self._learnings, self._clock()
        return {
            "outcomes": sum(cell.count for cell in learned.cells.values()),
            "scores": sum(cell.quality_count for cell in learned.cells.values()),
            "cells": len(learned.cells),
            "tasks": {t: learned.refresh(t, now_s).to_doc() for t in sorted(learned.knowledge)},
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
            evidence = await asyncio.to_thread(self._store.current_evidence, self._half_life)
            imported = await asyncio.to_thread(load_knowledge, self._store)
            self._learnings.take(*evidence)
            for entry in self._log.entries:  # those that came in meanwhile and are not durable yet
                if isinstance(entry, Batch):
                    self._learnings.fold(entry.outcomes)
                elif isinstance(entry, LateScore):
                    self._learnings.score(entry.cell, entry.score)
            self._learnings.adopt(imported)
        return counts

    async def health(self) -> dict[str, Any]:
        """State of the actor and its store; ``ok`` is false while the store refuses."""
        error = self._log.error
        return {
            "ok": error is None,
            "store_error": None if error is None else error.message,
            "waiting_rows": self._log.rows,
            "refused_rows": self._log.refused_rows,
            "failed_writes": self._log.failures,
            "invalid_outcomes": self._invalid,
            "waiting_feedback": self._desk.waiting,
            "early_feedback": len(self._desk.early),
            "expired_feedback": self._desk.early.expired,
            "cells": len(self._learnings.cells),
            "tasks": len(self._learnings.knowledge),
        }


def load_prices(store: Store, configured: Mapping[str, Price]) -> dict[str, Price]:
    """Prices of the configuration, and of models that were added at run time, by model."""
    prices = dict(configured)
    for model, text, source in store.load_models():
        if source != "runtime" or model in configured:
            continue
        try:
            prices[model] = ModelSpec.model_validate_json(text).price
        except ValidationError as error:  # written by another version; the controller has none
            log.warning("model %s has no price: %s", model, error)
    return prices


def load_knowledge(store: Store) -> dict[str, TaskKnowledge]:
    """Knowledge by task, as saved."""
    return {task: TaskKnowledge.from_doc(doc) for task, doc in store.load_knowledge().items()}
