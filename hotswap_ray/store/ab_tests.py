"""A/B tests, open and ended, with their reports."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson
from sqlalchemy import select

from hotswap_ray.store.control import ControlTables
from hotswap_ray.store.database import dumps
from hotswap_ray.store.schema import ab_tests

Doc = dict[str, Any]


class ABTestTables(ControlTables):
    """Written by the controller."""

    def save_ab_test(
        self,
        doc: Mapping[str, Any],
        table_doc: Mapping[str, Any] | None = None,
        event: Mapping[str, Any] | None = None,
    ) -> None:
        """Keep a test whole, with the route table that it made and the event that tells of it.

        Args:
            doc: ``ABTest.to_doc()``.
            table_doc: Route table of the same transaction.
            event: Kind ``ab_test``, at the time of the test's last change.

        Raises:
            Conflict: As ``save_table``; nothing is changed then.
        """
        with self.transaction() as connection:
            if table_doc is not None:
                self.save_table(table_doc, int(table_doc["version"]))
            self._upsert(
                connection,
                ab_tests,
                id=str(doc["id"]),
                task=str(doc["task"]),
                open=doc["phase"] != "ended",
                at_s=float(doc["requested_at_s"]),
                doc=dumps(doc),
            )
            if event is not None:
                self.add_event("ab_test", event, float(doc["updated_at_s"]))

    def load_ab_test(self, test_id: str) -> Doc | None:
        """One test, or ``None``."""
        with self._reading() as connection:
            text = connection.execute(
                select(ab_tests.c.doc).where(ab_tests.c.id == test_id)
            ).scalar()
        return None if text is None else _doc(text)

    def load_ab_tests(
        self, task: str | None = None, open_only: bool = False, limit: int = 50
    ) -> list[Doc]:
        """Tests, the newest first.

        Args:
            task: Only those of this task.
            open_only: Only those that have not ended.
            limit: At most so many.
        """
        query = select(ab_tests.c.doc).order_by(ab_tests.c.at_s.desc()).limit(limit)
        if task is not None:
            query = query.where(ab_tests.c.task == task)
        if open_only:
            query = query.where(ab_tests.c.open)
        with self._reading() as connection:
            return [_doc(text) for text in connection.execute(query).scalars()]


def _doc(text: str) -> Doc:
    doc: Doc = orjson.loads(text)
    return doc
