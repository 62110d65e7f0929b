"""Task knowledge and evidence: two tables, never mixed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import orjson
from sqlalchemy import select

from hotswap_ray.core.evidence.cell import HALF_LIFE, Cell, Evidence
from hotswap_ray.core.outcome import NO_TASK, Outcome
from hotswap_ray.store.database import dumps
from hotswap_ray.store.outcomes import OutcomeLog
from hotswap_ray.store.schema import evidence, knowledge


class LearningTables(OutcomeLog):
    """Tables whose one writer is the learning actor."""

    def save_knowledge(self, task: str, doc: Mapping[str, Any]) -> None:
        """Keep what is known of a task."""
        with self.transaction() as connection:
            self._upsert(connection, knowledge, task=task, doc=dumps(doc))

    def load_knowledge(self) -> dict[str, dict[str, Any]]:
        """Knowledge by task."""
        with self._reading() as connection:
            rows = connection.execute(select(knowledge.c.task, knowledge.c.doc))
            return {row[0]: orjson.loads(row[1]) for row in rows}

    def save_evidence(
        self, docs: Iterable[Mapping[str, Any]], watermark: int | None = None
    ) -> None:
        """Keep evidence cells, each known by its ``task`` and ``model``.

        Args:
            docs: Only those that changed.
            watermark: Highest outcome id that *all* saved evidence now holds; in the same
                transaction, so that a restart adds exactly what is missing.
        """
        rows = [{"task": d["task"], "model": d["model"], "doc": dumps(d)} for d in docs]
        with self.transaction() as connection:
            if rows:
                statement = self._insert(evidence)
                statement = statement.on_conflict_do_update(
                    index_elements=["task", "model"], set_={"doc": statement.excluded.doc}
                )
                connection.execute(statement, rows)
            if watermark is not None:
                self.set_watermark(watermark)

    def load_evidence(self) -> list[dict[str, Any]]:
        """Evidence as last saved; ``outcomes_after(watermark())`` is what it lacks."""
        with self._reading() as connection:
            rows = connection.execute(select(evidence.c.doc)).scalars()
            return [orjson.loads(text) for text in rows]

    def current_evidence(
        self, half_life: float = HALF_LIFE
    ) -> tuple[dict[Cell, Evidence], set[Cell]]:
        """Saved evidence plus every outcome and score that it lacks, in their order.

        Args:
            half_life: Of cells that are not saved yet.

        Returns:
            The cells, and which of them differ from what is saved.
        """
        cells = {(d["task"], d["model"]): Evidence.from_doc(d) for d in self.load_evidence()}
        changed: set[Cell] = set()
        waiting: dict[Cell, list[Outcome]] = {}
        for _, item in self.outcomes_after(self.watermark()):
            key = (item.task, item.model)
            if item.task == NO_TASK:
                continue
            changed.add(key)
            cell = cells.setdefault(key, Evidence(*key, half_life))
            if isinstance(item, Outcome):
                waiting.setdefault(key, []).append(item)
            else:
                cell.extend(waiting.pop(key, ()))
                cell.score((item.score,))
        for key, batch in waiting.items():
            cells[key].extend(batch)
        return cells, changed
