"""Decisions of the auto-swap with their reasons, its running tests, and settings of operators."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import orjson
from sqlalchemy import func, select

from hotswap_ray.store.database import Database, dumps
from hotswap_ray.store.schema import decisions, experiments, settings

Doc = dict[str, Any]


class DecisionTables(Database):
    """Decisions and settings are written by the controller, experiments by the learning actor."""

    def add_decision(
        self, task: str, at_s: float, doc: Mapping[str, Any], swap_id: str | None = None
    ) -> int:
        """Append a decision; returns its id, which rises with every decision.

        Args:
            task: Task id; empty for one about a model at every task.
            at_s: Unix time.
            doc: Inputs, statistic, threshold and sentence.
            swap_id: Swap that it asks for.
        """
        with self.transaction() as connection:
            decision_id = self._take(connection, "decisions")
            connection.execute(
                decisions.insert().values(
                    id=decision_id, task=task, at_s=at_s, swap_id=swap_id, doc=dumps(doc)
                )
            )
            return decision_id

    def load_decisions(
        self,
        task: str | None = None,
        limit: int = 50,
        *,
        swap_id: str | None = None,
        until_s: float | None = None,
    ) -> list[Doc]:
        """Decisions, the newest first: what was kept, with ``id, task, at_s, swap_id``.

        Args:
            task: Only of this task.
            limit: At most so many.
            swap_id: Only the one that asked for this swap.
            until_s: Only those up to this Unix time.
        """
        query = select(decisions).order_by(decisions.c.id.desc()).limit(limit)
        if task is not None:
            query = query.where(decisions.c.task == task)
        if swap_id is not None:
            query = query.where(decisions.c.swap_id == swap_id)
        if until_s is not None:
            query = query.where(decisions.c.at_s <= until_s)
        with self._reading() as connection:
            return [
                {
                    **orjson.loads(row.doc),
                    "id": row.id,
                    "task": row.task,
                    "at_s": row.at_s,
                    "swap_id": row.swap_id,
                }
                for row in connection.execute(query)
            ]

    def latest_decisions(self) -> dict[str, Doc]:
        """The last decision of each task."""
        newest = select(func.max(decisions.c.id)).group_by(decisions.c.task)
        query = select(decisions).where(decisions.c.id.in_(newest))
        with self._reading() as connection:
            return {row.task: orjson.loads(row.doc) for row in connection.execute(query)}

    def save_experiments(self, docs: Iterable[Mapping[str, Any]]) -> None:
        """Keep the running tests of tasks, each known by its ``task``."""
        with self.transaction() as connection:
            for doc in docs:
                self._upsert(connection, experiments, task=doc["task"], doc=dumps(doc))

    def load_experiments(self) -> dict[str, Doc]:
        """Running tests by task."""
        with self._reading() as connection:
            rows = connection.execute(select(experiments.c.task, experiments.c.doc))
            return {row[0]: orjson.loads(row[1]) for row in rows}

    def save_setting(self, name: str, doc: Mapping[str, Any]) -> None:
        """Keep what an operator set at run time."""
        with self.transaction() as connection:
            self._upsert(connection, settings, name=name, doc=dumps(doc))

    def load_settings(self) -> dict[str, Doc]:
        """Everything set at run time, by name."""
        with self._reading() as connection:
            rows = connection.execute(select(settings.c.name, settings.c.doc))
            return {row[0]: orjson.loads(row[1]) for row in rows}
