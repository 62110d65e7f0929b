"""What the controller must find again: models, route table, generations, swaps, events."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import orjson
from sqlalchemy import Connection, func, select, update

from hotswap_ray.core.errors import Conflict
from hotswap_ray.core.routing.target import app_name
from hotswap_ray.core.swap.phases import TERMINAL
from hotswap_ray.store.database import Database, dumps
from hotswap_ray.store.schema import events, generations, journal, models, route_table, swaps

NOTE_CHARS = 300
Doc = dict[str, Any]


class ControlTables(Database):
    """Tables whose one writer is the swap controller."""

    def save_model(
        self, spec_json: str, model_id: str, source: Literal["config", "runtime"]
    ) -> None:
        """Keep a model's spec as JSON text, and whether the file or a person added it."""
        with self.transaction() as connection:
            self._upsert(connection, models, model=model_id, spec=spec_json, source=source)

    def load_models(self) -> list[tuple[str, str, str]]:
        """All models as ``(model_id, spec_json, source)``, by id."""
        query = select(models.c.model, models.c.spec, models.c.source).order_by(models.c.model)
        with self._reading() as connection:
            return [(row[0], row[1], row[2]) for row in connection.execute(query)]

    def save_table(self, doc: Mapping[str, Any], version: int) -> None:
        """Replace the route table by a newer one.

        The same document at the same version again is a harmless retry.

        Raises:
            Conflict: The stored table is newer, or differs at this version.
            StoreError: The database refused.
        """
        text = dumps(doc)
        with self.transaction() as connection:
            statement = self._insert(route_table).values(id=1, version=version, doc=text)
            newer = statement.on_conflict_do_update(
                index_elements=["id"],
                set_={"version": version, "doc": text},
                where=route_table.c.version < version,
            )
            if self._inserts(connection, newer):
                return
            stored = connection.execute(select(route_table.c.version, route_table.c.doc)).one()
            if (stored.version, stored.doc) != (version, text):
                raise Conflict(
                    f"route table version {version} would overwrite version {stored.version}; "
                    "another controller is at work"
                )

    def load_table(self) -> Doc | None:
        """The route table, or ``None`` before the first one."""
        with self._reading() as connection:
            text = connection.execute(select(route_table.c.doc)).scalar()
        return None if text is None else _doc(text)

    def save_generation(self, doc: Mapping[str, Any]) -> None:
        """Keep one load of a model; its id is ``doc["id"]``, else the application's name."""
        key = doc.get("id") or app_name(doc["model"], doc["generation"])
        with self.transaction() as connection:
            self._upsert(connection, generations, id=str(key), doc=dumps(doc))

    def load_generations(self) -> list[Doc]:
        """All generations that were not deleted, by id."""
        with self._reading() as connection:
            query = select(generations.c.doc).order_by(generations.c.id)
            return [_doc(text) for text in connection.execute(query).scalars()]

    def delete_generation(self, generation_id: str) -> None:
        """Forget a generation; one that is not there is fine."""
        with self.transaction() as connection:
            connection.execute(generations.delete().where(generations.c.id == generation_id))

    def next_generation(self, model_id: str) -> int:
        """The next load number of a model, from 1; durable, never the same twice."""
        with self.transaction() as connection:
            return self._take(connection, f"generation:{model_id}")

    def save_swap(self, doc: Mapping[str, Any], note: str = "") -> None:
        """Keep a swap whole; a change of phase also appends to its journal.

        Args:
            doc: ``Swap.to_doc()``; needs ``swap_id``, ``task`` and ``phase``.
            note: Why the phase changed; by default the swap's error. Cut at 300 characters.
        """
        with self.transaction() as connection:
            self._save_swap(connection, doc, note)

    def commit_swap(self, swap_doc: Mapping[str, Any], table_doc: Mapping[str, Any]) -> None:
        """Save a swap and the route table that it made, both or neither.

        Raises:
            Conflict: As ``save_table``; the swap is unchanged then.
        """
        with self.transaction() as connection:
            self.save_table(table_doc, int(table_doc["version"]))
            self._save_swap(connection, swap_doc, "")

    def _save_swap(self, connection: Connection, doc: Mapping[str, Any], note: str) -> None:
        swap_id, phase = str(doc["swap_id"]), str(doc["phase"])
        this_swap = swaps.c.swap_id == swap_id
        previous_phase = connection.execute(select(swaps.c.phase).where(this_swap)).scalar()
        values = {"phase": phase, "open": phase not in TERMINAL, "doc": dumps(doc)}
        if previous_phase is None:
            seq = self._take(connection, "swaps")
            connection.execute(
                swaps.insert().values(swap_id=swap_id, seq=seq, task=str(doc["task"]), **values)
            )
        else:
            connection.execute(update(swaps).where(this_swap).values(**values))
        if previous_phase == phase:
            return
        last_seq = connection.execute(
            select(func.max(journal.c.seq)).where(journal.c.swap_id == swap_id)
        ).scalar()
        connection.execute(
            journal.insert().values(
                swap_id=swap_id,
                seq=(last_seq or 0) + 1,
                phase=phase,
                at_s=float(doc.get("updated_at_s") or doc.get("requested_at_s") or 0),
                note=(note or str(doc.get("error") or ""))[:NOTE_CHARS],
            )
        )

    def load_swap(self, swap_id: str) -> Doc | None:
        """One swap, or ``None``."""
        with self._reading() as connection:
            query = select(swaps.c.doc).where(swaps.c.swap_id == swap_id)
            text = connection.execute(query).scalar()
        return None if text is None else _doc(text)

    def load_swaps(
        self, task: str | None = None, open_only: bool = False, limit: int = 100
    ) -> list[Doc]:
        """Swaps, the newest first.

        Args:
            task: Only those of this task.
            open_only: Only those that still have work to do.
            limit: At most so many.
        """
        query = select(swaps.c.doc).order_by(swaps.c.seq.desc()).limit(limit)
        if task is not None:
            query = query.where(swaps.c.task == task)
        if open_only:
            query = query.where(swaps.c.open)
        with self._reading() as connection:
            return [_doc(text) for text in connection.execute(query).scalars()]

    def load_journal(self, swap_id: str) -> list[Doc]:
        """Phases of a swap in order: ``swap_id, seq, phase, at_s, note``."""
        query = select(journal).where(journal.c.swap_id == swap_id).order_by(journal.c.seq)
        with self._reading() as connection:
            return [_plain(row) for row in connection.execute(query).mappings()]

    def add_event(self, kind: str, doc: Mapping[str, Any], at_s: float) -> int:
        """Append an event for watchers; returns its id, which rises with every event."""
        with self.transaction() as connection:
            event_id = self._take(connection, "events")
            connection.execute(
                events.insert().values(id=event_id, kind=kind, at_s=at_s, doc=dumps(doc))
            )
            return event_id

    def load_events(self, after_id: int = 0, limit: int = 100) -> list[Doc]:
        """Events after ``after_id`` in order: ``id, kind, at_s, doc``."""
        query = select(events).where(events.c.id > after_id).order_by(events.c.id).limit(limit)
        with self._reading() as connection:
            rows = connection.execute(query).mappings()
            return [{**_plain(row), "doc": _doc(row["doc"])} for row in rows]


def _doc(text: str) -> Doc:
    doc: Doc = orjson.loads(text)
    return doc


def _plain(row: Mapping[Any, Any]) -> Doc:
    """SQLAlchemy's names are more than text, and JSON takes text only."""
    return {str(name): value for name, value in row.items()}
