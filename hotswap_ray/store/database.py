"""One connection pool, its transactions, and what its failures mean in words.

SQLite runs in WAL mode with ``synchronous=FULL``: a commit that returned survives
``kill -9`` and a power cut, because the log is synced before the call returns. Outcomes
are committed in groups, so that this costs one sync per flush and not per row.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import orjson
from alembic.runtime.environment import EnvironmentContext
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, Table, create_engine, event, literal, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError
from sqlalchemy.pool import StaticPool

from hotswap_ray.core.errors import StoreError
from hotswap_ray.store.schema import counters

MIGRATIONS = Path(__file__).parent / "migrations"
MIGRATION_LOCK = 0x686F7473776170  # "hotswap": one advisory lock for all who open
BUSY_TIMEOUT_S = 5.0
REOPEN_S = 1.0
log = logging.getLogger("hotswap.store")

SENTENCES = (
    ("readonly", "the store is read-only; make {where} writable"),
    ("read-only", "the store is read-only; make {where} writable"),
    ("locked", "the store {where} is locked by another process"),
    ("full", "the disk of the store {where} is full"),
    ("no space left", "the disk of the store {where} is full"),
    ("unable to open", "the store {where} cannot be opened"),
    ("not a database", "{where} is not a database of hotswap"),
    ("malformed", "the store {where} is damaged; restore it from a backup"),
    ("connection", "the store {where} cannot be reached"),
    ("connect", "the store {where} cannot be reached"),
    ("timeout", "the store {where} did not answer in time"),
)


def dumps(doc: Any) -> str:
    """A document as compact JSON text."""
    return orjson.dumps(doc, option=orjson.OPT_NON_STR_KEYS | orjson.OPT_SERIALIZE_NUMPY).decode()


class Database:
    """Engine, transactions and migrations; the tables' owners build on it.

    Args:
        url: SQLAlchemy URL, ``sqlite:///file.db`` or ``postgresql+psycopg://...``. A bare
            ``postgresql://`` uses psycopg 3. The file and its directory are made.

    Raises:
        StoreError: The store cannot be opened or brought to the newest schema.
    """

    def __init__(self, url: str) -> None:
        try:
            parsed = make_url(url)
        except ArgumentError:
            raise StoreError("store.url is not a database URL, e.g. sqlite:///hotswap.db") from None
        if parsed.drivername in ("postgresql", "postgres"):
            parsed = parsed.set(drivername="postgresql+psycopg")
        self._url = url
        self.where = parsed.render_as_string(hide_password=True)
        self._local = threading.local()
        self._lock = threading.RLock()
        self._in_memory = parsed.get_backend_name() == "sqlite" and parsed.database in (
            None,
            "",
            ":memory:",
        )
        self._engine = self._open(parsed)
        with self._errors():
            self._migrate()

    def _open(self, url: URL) -> Engine:
        with self._errors():
            if url.get_backend_name() == "postgresql":
                options = "-c lock_timeout=5000 -c statement_timeout=60000"
                return create_engine(
                    url,
                    pool_pre_ping=True,
                    connect_args={"connect_timeout": 5, "options": options},
                )
            if url.get_backend_name() != "sqlite":
                raise StoreError(f"store.url {self.where}: use sqlite or postgresql+psycopg")
            if not self._in_memory:
                Path(str(url.database)).parent.mkdir(parents=True, exist_ok=True)
                engine = create_engine(url, connect_args={"timeout": BUSY_TIMEOUT_S})
            else:
                engine = create_engine(
                    url, poolclass=StaticPool, connect_args={"check_same_thread": False}
                )
            event.listen(engine, "connect", _prepare_sqlite)
            event.listen(engine, "begin", _begin_sqlite)
            return engine

    def __reduce__(self) -> tuple[Any, ...]:
        """Travels to an actor as its URL, and opens again there."""
        return _reopen, (type(self), self._url)

    @property
    def is_postgres(self) -> bool:
        """Whether a PostgreSQL server holds the data."""
        return self._engine.dialect.name == "postgresql"

    def close(self) -> None:
        """Give all connections back."""
        self._engine.dispose()

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """Everything inside commits together or not at all; nests into the outer one.

        Raises:
            StoreError: The database refused; nothing was changed.
        """
        current: Connection | None = getattr(self._local, "connection", None)
        if current is not None:
            yield current
            return
        with self._lock, self._errors(), self._engine.connect() as connection, connection.begin():
            self._local.connection = connection
            try:
                yield connection
            except BaseException:
                self._on_rollback()
                raise
            finally:
                self._local.connection = None

    @contextmanager
    def _reading(self) -> Iterator[Connection]:
        """A connection that takes no write lock; inside a transaction it is that one."""
        current: Connection | None = getattr(self._local, "connection", None)
        if current is not None:
            yield current
            return
        # A database in memory has one connection, so its readers wait for its writers.
        lock = self._lock if self._in_memory else nullcontext()
        with lock, self._errors(), self._engine.connect() as connection:
            yield connection.execution_options(hotswap_read=True)

    def _on_rollback(self) -> None:
        """Forget what a failed transaction had put into caches."""

    def _insert(self, table: Table) -> Any:
        """An INSERT that knows ON CONFLICT; both dialects spell it the same."""
        return postgresql.insert(table) if self.is_postgres else sqlite.insert(table)

    def _upsert(self, connection: Connection, table: Table, **values: Any) -> None:
        keys = [column.name for column in table.primary_key]
        statement = self._insert(table).values(**values)
        changed = {key: value for key, value in values.items() if key not in keys}
        connection.execute(statement.on_conflict_do_update(index_elements=keys, set_=changed))

    def _inserts(self, connection: Connection, statement: Any) -> bool:
        """Run an INSERT ... ON CONFLICT; whether a row was written."""
        # The row count of such a statement is not the same on both databases.
        return connection.execute(statement.returning(literal(1))).first() is not None

    def _take(self, connection: Connection, counter: str, count: int = 1) -> int:
        """Reserve ``count`` numbers; returns the first. Never gives a number twice."""
        statement = (
            self._insert(counters)
            .values(name=counter, value=count)
            .on_conflict_do_update(
                index_elements=["name"], set_={"value": counters.c.value + count}
            )
            .returning(counters.c.value)
        )
        return int(connection.execute(statement).scalar_one()) - count + 1

    def _counter(self, connection: Connection, counter: str) -> int:
        query = select(counters.c.value).where(counters.c.name == counter)
        return int(connection.execute(query).scalar() or 0)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except (SQLAlchemyError, OSError) as error:
            raise StoreError(self._sentence(error)) from error

    def _sentence(self, error: Exception) -> str:
        detail = str(getattr(error, "orig", None) or error).strip().split("\n", 1)[0]
        lowered = detail.lower()
        for sign, sentence in SENTENCES:
            if sign in lowered:
                return f"{sentence.format(where=self.where)} ({detail})"
        return f"the store {self.where} refused: {detail}"

    def _migrate(self) -> None:
        """Bring the schema to the newest revision; safe when many open at once."""
        scripts = ScriptDirectory(str(MIGRATIONS))
        head = scripts.get_current_head()
        # Read without a lock first, so that opening a current store never waits for a writer.
        with self._reading() as connection:
            revision = MigrationContext.configure(connection).get_current_revision()
        if revision == head:
            return
        if revision is not None and revision not in {
            script.revision for script in scripts.walk_revisions()
        }:
            raise StoreError(
                f"the store {self.where} was written by a newer hotswap (revision {revision}); "
                "upgrade hotswap_ray"
            )
        with self.transaction() as connection:
            if self.is_postgres:
                connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({MIGRATION_LOCK})")
            _upgrade(scripts, connection)


def _upgrade(scripts: ScriptDirectory, connection: Connection) -> None:
    # Alembic without its env.py: the connection is ours and already in a transaction.
    from alembic.config import Config

    def steps(revision: Any, _context: Any) -> Any:
        return scripts._upgrade_revs("head", revision)

    with EnvironmentContext(Config(), scripts, fn=steps) as environment:
        environment.configure(connection=connection)
        environment.run_migrations()


def _prepare_sqlite(connection: Any, _record: Any) -> None:
    # The driver's own transactions start too late (at the first write); ours start at once.
    connection.isolation_level = None
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout={int(BUSY_TIMEOUT_S * 1000)}")
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=FULL")
    # Request ids hit the index at random, so its pages need room and fewer rewrites.
    cursor.execute("PRAGMA cache_size=-32000")
    cursor.execute("PRAGMA wal_autocheckpoint=4000")
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    reads = connection.get_execution_options().get("hotswap_read")
    connection.exec_driver_sql("BEGIN" if reads else "BEGIN IMMEDIATE")


def _reopen(kind: type[Database], url: str) -> Database:
    """Open a store that was open elsewhere, however long it takes.

    An actor that restarts while its store refuses must wait for it: one whose constructor
    raises is not started again.
    """
    while True:
        try:
            return kind(url)
        except StoreError as error:
            log.error("waiting for the store: %s", error)
            time.sleep(REOPEN_S)
