"""Scores that came before the answer they are about was recorded."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from sqlalchemy import select

from hotswap_ray.store.database import Database
from hotswap_ray.store.schema import pending_feedback


@dataclass(frozen=True, slots=True)
class PendingScore:
    """A score whose answer is not known yet.

    Attributes:
        request: Id of the answer.
        at_s: Unix time when it was given.
        score: In [0, 1].
        idempotency: Its key.
        comment: Free text of the person.
        source: Whose API key gave it; ``None`` where there are no keys.
    """

    request: str
    at_s: float
    score: float
    idempotency: str
    comment: str | None
    source: str | None


class PendingTables(Database):
    """The table of scores that wait; its one writer is the learning actor."""

    def keep_pending(self, score: PendingScore, before_s: float) -> None:
        """Keep a score, and forget those that were given before a Unix time."""
        with self.transaction() as connection:
            old = pending_feedback.c.at_s < before_s
            connection.execute(pending_feedback.delete().where(old))
            self._upsert(connection, pending_feedback, **asdict(score))

    def drop_pending(self, request: str) -> None:
        """Forget a score, which has found its answer."""
        with self.transaction() as connection:
            found = pending_feedback.c.request == request
            connection.execute(pending_feedback.delete().where(found))

    def load_pending(self, since_s: float) -> list[PendingScore]:
        """Scores given since a Unix time, the oldest first."""
        query = select(pending_feedback).where(pending_feedback.c.at_s >= since_s)
        with self._reading() as connection:
            rows = connection.execute(query.order_by(pending_feedback.c.at_s))
            return [PendingScore(*row) for row in rows]
