"""Learnings as JSON lines: out of one store, into another, or into the same one again.

Evidence that comes from elsewhere is merged into a cell once per origin and cell; the
outcomes that came with it are history with negative ids, which replay never adds again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any
from uuid import uuid4

import orjson
from pydantic import ValidationError
from sqlalchemy import Connection, select

from hotswap_ray.core.errors import InvalidRequest
from hotswap_ray.core.evidence.cell import Evidence, problem
from hotswap_ray.core.evidence.knowledge import TaskKnowledge
from hotswap_ray.core.outcome import Outcome
from hotswap_ray.store.database import dumps
from hotswap_ray.store.evidence import LearningTables
from hotswap_ray.store.outcomes import COLUMNS, IMPORTED, row_values
from hotswap_ray.store.schema import feedback, imports, outcomes

SCHEMA = 1
"""Version of the lines written; every version up to it can be read."""
CHUNK = 1000
LATER = ("format_ok", "ending", "status")
"""Columns that lines of an earlier version do not have."""


class PortableLearnings(LearningTables):
    """Export and import of knowledge, evidence and outcomes."""

    def origin(self) -> str:
        """A random name of this store, given once; tells one export from another."""
        query = select(imports.c.origin).where(imports.c.task == "", imports.c.model == "")
        query = query.order_by(imports.c.origin).limit(1)
        with self._reading() as connection:
            origin = connection.execute(query).scalar()
        if origin is None:
            with self.transaction() as connection:
                statement = self._insert(imports).values(origin=uuid4().hex, task="", model="")
                connection.execute(statement)
                origin = connection.execute(query).scalar_one()
        return str(origin)

    def export_lines(self, with_outcomes: bool = True) -> Iterator[str]:
        """Everything learned, one JSON object a line with ``kind`` and ``schema``.

        Args:
            with_outcomes: Also every stored outcome; else knowledge and evidence only.
        """

        def line(kind: str, doc: dict[str, Any]) -> str:
            return dumps({"kind": kind, "schema": SCHEMA, **doc})

        for doc in self.load_knowledge().values():
            yield line("knowledge", {"doc": doc})
        origin = self.origin()
        for cell in self.current_evidence()[0].values():
            yield line("evidence", {"origin": origin, "doc": cell.to_doc()})
        if with_outcomes:
            for row in self._all_outcomes():
                yield line("outcome", {"doc": row})

    def _all_outcomes(self) -> Iterator[dict[str, Any]]:
        query = (
            select(outcomes, feedback.c.score)
            .outerjoin(feedback, feedback.c.outcome_id == outcomes.c.id)
            .order_by(outcomes.c.id)
            .limit(CHUNK)
        )
        last: int | None = None
        while True:
            with self._reading() as connection:
                name = self._names(connection)
                page = query if last is None else query.where(outcomes.c.id > last)
                rows = connection.execute(page).all()
            for row in rows:
                doc = dict(zip(COLUMNS, row_values(row, name), strict=True))
                yield doc if row.score is None else {**doc, "quality": row.score}
            if len(rows) < CHUNK:
                return
            last = rows[-1].id

    def import_lines(self, lines: Iterable[str | bytes]) -> dict[str, int]:
        """Take in exported lines, all or none; the same lines again change nothing.

        Args:
            lines: From ``export_lines`` of any store; empty lines are skipped.

        Returns:
            How many of each kind were new, and ``skipped``.

        Raises:
            InvalidRequest: A line cannot be read; it is named, nothing was imported.
        """
        counts: Counter[str] = Counter(knowledge=0, evidence=0, outcome=0, skipped=0)
        history: list[Outcome] = []
        with self.transaction() as connection:
            knowledge = {
                task: TaskKnowledge.from_doc(d) for task, d in self.load_knowledge().items()
            }
            cells, changed = self.current_evidence()
            # What is not folded in yet must be, or replay would add it to merged cells twice.
            self.save_evidence([cells[k].to_doc() for k in changed], self.last_outcome_id())
            for number, text in enumerate(lines, start=1):
                if not text.strip():
                    continue
                try:
                    item = _parse(text)
                    kind, doc = item["kind"], item["doc"]
                    if kind == "knowledge":
                        new = self._import_knowledge(TaskKnowledge.from_doc(doc), knowledge)
                    elif kind == "evidence":
                        cell = Evidence.from_doc(doc)
                        new = self._import_evidence(connection, item["origin"], cell, cells)
                    else:
                        history.append(_outcome(doc))
                        continue
                except (KeyError, TypeError, ValueError, ValidationError) as error:
                    raise InvalidRequest(f"line {number}: {_reason(error)}") from None
                counts[kind if new else "skipped"] += 1
            for start in range(0, len(history), CHUNK):
                chunk = history[start : start + CHUNK]
                first = self._take(connection, IMPORTED, len(chunk))
                ids = range(-first, -first - len(chunk), -1)
                new_rows = self._insert_outcomes(connection, chunk, ids, bytes.fromhex)
                counts["outcome"] += new_rows
                counts["skipped"] += len(chunk) - new_rows
        return dict(counts)

    def _import_knowledge(
        self, imported: TaskKnowledge, knowledge: dict[str, TaskKnowledge]
    ) -> bool:
        stored = knowledge.get(imported.task)
        merged = imported if stored is None else stored.merge(imported)
        if merged == stored:
            return False
        knowledge[imported.task] = merged
        self.save_knowledge(imported.task, merged.to_doc())
        return True

    def _import_evidence(
        self,
        connection: Connection,
        origin: str,
        imported: Evidence,
        cells: dict[tuple[str, str], Evidence],
    ) -> bool:
        key = (imported.task, imported.model)
        is_own = origin == self.origin()
        statement = self._insert(imports).values(origin=origin, task=key[0], model=key[1])
        if not self._inserts(connection, statement.on_conflict_do_nothing()):
            return False
        if key in cells and is_own:
            return False
        if key in cells:
            cells[key].merge(imported)
        else:
            cells[key] = imported
        self.save_evidence([cells[key].to_doc()])
        return True


def _parse(text: str | bytes) -> dict[str, Any]:
    item = orjson.loads(text)
    if not isinstance(item, dict):
        raise ValueError("not a JSON object")
    schema = item.get("schema")
    if not isinstance(schema, int) or schema < 1:
        raise ValueError(f"schema is {schema!r}; expected 1 to {SCHEMA}")
    if schema > SCHEMA:
        raise ValueError(
            f"schema {schema} is newer than {SCHEMA}, the newest this hotswap reads; upgrade it"
        )
    if item.get("kind") not in ("knowledge", "evidence", "outcome"):
        raise ValueError(f"unknown kind {item.get('kind')!r}")
    return item


def _outcome(doc: dict[str, Any]) -> Outcome:
    outcome = Outcome(**{name: doc[name] for name in COLUMNS if name in doc or name not in LATER})
    if outcome.format_ok not in (None, True, False):
        raise ValueError(f"format_ok is {outcome.format_ok!r}; it must be true, false or null")
    bytes.fromhex(outcome.request_id)
    reason = problem(outcome)
    if reason:
        raise ValueError(reason)
    return outcome


def _reason(error: Exception) -> str:
    return f"{error} is missing" if isinstance(error, KeyError) else str(error).split("\n", 1)[0]
