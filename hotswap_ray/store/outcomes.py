"""The log of outcomes and of the scores that people gave later.

Both take their ids from one counter inside the writing transaction. So an id says in
which order things became durable, and "everything after the watermark" is exact.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import pandas as pd
from sqlalchemy import Connection, func, or_, select

from hotswap_ray.core.errors import Conflict, NotFound
from hotswap_ray.core.outcome import Outcome
from hotswap_ray.store.database import Database
from hotswap_ray.store.schema import batches, counters, decisions, events, feedback, names, outcomes

SEQUENCE = "outcomes"
IMPORTED = "outcomes:imported"
WATERMARK = "watermark"
KEPT_BATCHES = 20_000
PAGE = 5_000
PRUNED_AT_ONCE = 50_000

COLUMNS = [
    "request_id", "task", "model", "generation", "decision", "at_s", "success", "latency_ms",
    "ttft_ms", "tokens_in", "tokens_out", "memory_bytes", "quality", "format_ok", "ending",
    "status",
]  # fmt: skip


def digest(text: str) -> bytes:
    """The 16 bytes that stand for a request id, a batch id or an idempotency key."""
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()


@dataclass(frozen=True, slots=True)
class Score:
    """A quality given to one outcome after the fact."""

    task: str
    model: str
    score: float


@dataclass(frozen=True, slots=True)
class StoredRequest:
    """What is stored about one request: who answered, and the score it has, if any."""

    outcome_id: int
    task: str
    model: str
    idempotency: bytes | None = None
    score: float | None = None


class OutcomeLog(Database):
    """Outcomes and feedback; their one writer is the learning actor."""

    def __init__(self, url: str) -> None:
        self._ids: dict[str, int] = {}
        super().__init__(url)

    def add_outcomes(self, batch: Sequence[Outcome], batch_id: str | None = None) -> int:
        """Append outcomes in their order; the same batch again adds nothing.

        Args:
            batch: Any number; one transaction.
            batch_id: Makes a retry recognisable without looking at each row.

        Returns:
            How many of them the store had not seen. An outcome is known by request,
            model and generation.
        """
        if not batch:
            return 0
        with self.transaction() as connection:
            if batch_id is not None and not self._new_batch(connection, batch_id):
                return 0
            first = self._take(connection, SEQUENCE, len(batch))
            return self._insert_outcomes(connection, batch, range(first, first + len(batch)))

    def _insert_outcomes(
        self,
        connection: Connection,
        batch: Sequence[Outcome],
        ids: Sequence[int],
        key: Callable[[str], bytes] = digest,
    ) -> int:
        name_ids = self._number(
            connection,
            {n for o in batch for n in (o.task, o.model, o.decision, o.ending) if n is not None},
        )
        rows = [
            (
                row_id, key(o.request_id), name_ids[o.task], name_ids[o.model], o.generation,
                name_ids[o.decision], o.at_s, o.success, o.latency_ms, o.ttft_ms,
                o.tokens_in, o.tokens_out, o.memory_bytes, o.quality, o.format_ok,
                None if o.ending is None else name_ids[o.ending], o.status,
            )
            for row_id, o in zip(ids, batch, strict=True)
        ]  # fmt: skip
        # Straight to the driver: the expression language would cost three times the insert.
        marks = ", ".join(["%s" if self.is_postgres else "?"] * len(outcomes.columns))
        connection.exec_driver_sql(
            f"INSERT INTO outcomes ({', '.join(outcomes.columns.keys())}) VALUES ({marks}) "
            "ON CONFLICT (request, model, generation) DO NOTHING",
            rows,
        )
        written = select(func.count()).where(outcomes.c.id.between(min(ids), max(ids)))
        return int(connection.execute(written).scalar_one())

    def _new_batch(self, connection: Connection, batch_id: str) -> bool:
        number = self._take(connection, "batches")
        statement = self._insert(batches).values(id=number, batch=digest(batch_id))
        if not self._inserts(connection, statement.on_conflict_do_nothing()):
            return False
        if number % 1000 == 0:
            connection.execute(batches.delete().where(batches.c.id <= number - KEPT_BATCHES))
        return True

    def recent_batches(self) -> list[bytes]:
        """Digests of the batches that are durable, the oldest first; the last 20,000."""
        query = select(batches.c.batch).order_by(batches.c.id)
        with self._reading() as connection:
            return [bytes(value) for value in connection.execute(query).scalars()]

    def find_request(self, request_id: str) -> StoredRequest | None:
        """The outcome of a request's answer and its feedback, or ``None`` when unknown.

        A model that failed before its first byte has not answered; the next one may.
        """
        task, model = names.alias("task"), names.alias("model")
        query = (
            select(
                outcomes.c.id, task.c.name, model.c.name, feedback.c.idempotency, feedback.c.score
            )
            .join(task, task.c.id == outcomes.c.task)
            .join(model, model.c.id == outcomes.c.model)
            .outerjoin(feedback, feedback.c.outcome_id == outcomes.c.id)
            .where(outcomes.c.request == digest(request_id))
            .where(or_(outcomes.c.success, outcomes.c.ttft_ms.is_not(None)))
            .order_by(func.abs(outcomes.c.id).desc())
            .limit(1)
        )
        with self._reading() as connection:
            row = connection.execute(query).first()
        return None if row is None else StoredRequest(*row)

    def find_outcomes(self, request_id: str) -> list[dict[str, Any]]:
        """Every outcome of a request as named values: one for each model, as it met them."""
        query = (
            select(outcomes)
            .where(outcomes.c.request == digest(request_id))
            .order_by(outcomes.c.at_s, func.abs(outcomes.c.id))
        )
        with self._reading() as connection:
            name = self._names(connection)
            return [
                dict(zip(COLUMNS, row_values(row, name), strict=True))
                for row in connection.execute(query)
            ]

    def set_quality(
        self, request_id: str, score: float, idempotency_key: str, comment: str | None = None
    ) -> tuple[str, str]:
        """Attach a score to the request's outcome, once.

        Args:
            request_id: The ``x-request-id`` of the answer.
            score: In [0, 1].
            idempotency_key: The same key again changes nothing.
            comment: Free text of the person; cut at 1,000 characters.

        Returns:
            Task and model that the score counts for.

        Raises:
            NotFound: No outcome of this request is stored (yet).
            Conflict: The request was scored already under another key.
        """
        with self.transaction() as connection:
            stored = self.find_request(request_id)
            if stored is None:
                raise NotFound(f"no outcome of request {request_id!r} is known")
            key = digest(idempotency_key)
            if stored.idempotency is None:
                connection.execute(
                    feedback.insert().values(
                        id=self._take(connection, SEQUENCE),
                        outcome_id=stored.outcome_id,
                        idempotency=key,
                        score=score,
                        comment=comment and comment.replace("\0", "")[:1000],
                    )
                )
            elif bytes(stored.idempotency) != key:
                raise Conflict(f"request {request_id!r} was scored already")
            return stored.task, stored.model

    def outcomes_after(self, after_id: int) -> Iterator[tuple[int, Outcome | Score]]:
        """Outcomes and scores with a higher id, in the order in which they became durable."""
        scored = (
            select(feedback.c.id, feedback.c.score, outcomes.c.task, outcomes.c.model)
            .join(outcomes, outcomes.c.id == feedback.c.outcome_id)
            .order_by(feedback.c.id)
        )
        low, high = after_id, self.last_outcome_id()
        while low < high:
            upto = min(high, low + PAGE)
            with self._reading() as connection:
                name = self._names(connection)
                page: list[tuple[int, Outcome | Score]] = [
                    (row.id, _outcome(row, name))
                    for row in connection.execute(
                        select(outcomes).where(outcomes.c.id > low, outcomes.c.id <= upto)
                    )
                ]
                for row in connection.execute(
                    scored.where(feedback.c.id > low, feedback.c.id <= upto)
                ):
                    page.append((row.id, Score(name[row.task], name[row.model], row.score)))
            yield from sorted(page, key=lambda item: item[0])
            low = upto

    def outcomes_frame(
        self,
        task: str | None = None,
        model: str | None = None,
        since_s: float | None = None,
        limit: int = 10_000,
    ) -> pd.DataFrame:
        """The newest outcomes as a DataFrame, in order of arrival.

        ``quality`` is the person's score where there is one, else the checker's; missing
        stays missing. ``request_id`` is a digest in hex: the store does not keep the text.
        """
        query = (
            select(outcomes, feedback.c.score)
            .outerjoin(feedback, feedback.c.outcome_id == outcomes.c.id)
            .order_by(outcomes.c.at_s.desc(), outcomes.c.id.desc())
            .limit(limit)
        )
        with self._reading() as connection:
            name = self._names(connection)
            name_ids = {text: key for key, text in name.items()}
            for column, value in ((outcomes.c.task, task), (outcomes.c.model, model)):
                if value is not None:
                    query = query.where(column == name_ids.get(value, -1))
            if since_s is not None:
                query = query.where(outcomes.c.at_s >= since_s)
            rows = connection.execute(query).all()
        frame = pd.DataFrame([row_values(row, name) for row in reversed(rows)], columns=COLUMNS)
        scores = pd.Series([row.score for row in reversed(rows)], dtype="float64")
        frame["quality"] = scores.fillna(frame["quality"].astype("float64"))
        return frame

    def prune(self, older_than_s: float) -> int:
        """Delete events and decisions, and outcomes in saved evidence, from before this Unix time.

        Looks at the 50,000 outcomes stored longest, so that a call takes bounded time.

        Returns:
            How many outcomes were deleted. Evidence is not changed.
        """
        with self.transaction() as connection:
            watermark = self._counter(connection, WATERMARK)
            in_evidence = select(outcomes.c.id, outcomes.c.at_s).where(outcomes.c.id <= watermark)
            head = in_evidence.order_by(outcomes.c.id).limit(PRUNED_AT_ONCE).subquery()
            old = select(head.c.id).where(head.c.at_s < older_than_s)
            for log in (events, decisions):
                connection.execute(log.delete().where(log.c.at_s < older_than_s))
            # A score that is not folded in yet needs its outcome to know task and model.
            needed = select(feedback.c.outcome_id).where(feedback.c.id > watermark)
            old = old.where(head.c.id.not_in(needed))
            connection.execute(feedback.delete().where(feedback.c.outcome_id.in_(old)))
            return int(connection.execute(outcomes.delete().where(outcomes.c.id.in_(old))).rowcount)

    def _number(self, connection: Connection, wanted_names: set[str]) -> dict[str, int]:
        missing = sorted(str(name) for name in wanted_names - self._ids.keys())
        if missing:
            statement = self._insert(names).on_conflict_do_nothing(index_elements=["name"])
            connection.execute(statement, [{"name": name} for name in missing])
            query = select(names.c.name, names.c.id).where(names.c.name.in_(missing))
            self._ids.update({row[0]: row[1] for row in connection.execute(query)})
        return self._ids

    def _names(self, connection: Connection) -> dict[int, str]:
        return {row[0]: row[1] for row in connection.execute(select(names.c.id, names.c.name))}

    def _on_rollback(self) -> None:
        self._ids.clear()

    def set_watermark(self, value: int) -> None:
        """Say that saved evidence holds everything up to this id."""
        with self.transaction() as connection:
            self._upsert(connection, counters, name=WATERMARK, value=value)

    def watermark(self) -> int:
        """Highest id that saved evidence holds."""
        with self._reading() as connection:
            return self._counter(connection, WATERMARK)

    def last_outcome_id(self) -> int:
        """Highest id given to an outcome or a score so far."""
        with self._reading() as connection:
            return self._counter(connection, SEQUENCE)


def row_values(row: Any, name: dict[int, str]) -> tuple[Any, ...]:
    """A stored outcome in the order of ``COLUMNS``."""
    return (
        bytes(row.request).hex(), name[row.task], name[row.model], row.generation,
        name[row.decision], row.at_s, row.success, row.latency_ms, row.ttft_ms,
        row.tokens_in, row.tokens_out, row.memory_bytes, row.quality, row.format_ok,
        None if row.ending is None else name[row.ending], row.status or 0,
    )  # fmt: skip


def _outcome(row: Any, name: dict[int, str]) -> Outcome:
    return Outcome(*row_values(row, name))
