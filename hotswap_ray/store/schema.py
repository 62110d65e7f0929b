"""The tables, as the code of today sees them.

``migrations/versions`` builds them step by step; a test holds the two equal. Names that
repeat in every outcome (tasks, models, decisions) are integers into ``names``, and a
request id is its 16-byte digest: an outcome row must stay under 160 bytes, index included.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Double,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
)

metadata = MetaData()

names = Table(
    "names",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("name", Text, nullable=False, unique=True),
)

# Ids come from here and not from the database's own sequences: they rise in the order of
# commits, on both databases, and are never used twice. The watermark of the evidence and
# the generation numbers rest on that.
counters = Table(
    "counters",
    metadata,
    Column("name", Text, primary_key=True),
    Column("value", BigInteger, nullable=False),
)

models = Table(
    "models",
    metadata,
    Column("model", Text, primary_key=True),
    Column("spec", Text, nullable=False),
    Column("source", Text, nullable=False),
)

route_table = Table(
    "route_table",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("version", BigInteger, nullable=False),
    Column("doc", Text, nullable=False),
)

generations = Table(
    "generations",
    metadata,
    Column("id", Text, primary_key=True),
    Column("doc", Text, nullable=False),
)

swaps = Table(
    "swaps",
    metadata,
    Column("swap_id", Text, primary_key=True),
    Column("seq", BigInteger, nullable=False),
    Column("task", Text, nullable=False),
    Column("phase", Text, nullable=False),
    Column("open", Boolean, nullable=False),
    Column("doc", Text, nullable=False),
    Index("swaps_by_seq", "seq"),
)

journal = Table(
    "journal",
    metadata,
    Column("swap_id", Text, primary_key=True),
    Column("seq", Integer, primary_key=True, autoincrement=False),
    Column("phase", Text, nullable=False),
    Column("at_s", Double, nullable=False),
    Column("note", Text, nullable=False),
    sqlite_with_rowid=False,
)

events = Table(
    "events",
    metadata,
    Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True),
    Column("kind", Text, nullable=False),
    Column("at_s", Double, nullable=False),
    Column("doc", Text, nullable=False),
)

outcomes = Table(
    "outcomes",
    metadata,
    # Negative ids are imported history: already part of the imported evidence.
    Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True),
    Column("request", LargeBinary(16), nullable=False),
    Column("task", Integer, nullable=False),
    Column("model", Integer, nullable=False),
    Column("generation", Integer, nullable=False),
    Column("decision", Integer, nullable=False),
    Column("at_s", Double, nullable=False),
    Column("success", Boolean, nullable=False),
    Column("latency_ms", Double, nullable=False),
    Column("ttft_ms", Double),
    Column("tokens_in", Integer, nullable=False),
    Column("tokens_out", Integer, nullable=False),
    Column("memory_bytes", BigInteger, nullable=False),
    Column("quality", Double),
    Column("format_ok", Boolean),
    Column("ending", Integer),
    Column("status", Integer),
    # A request may have two outcomes: the model that failed and the fallback that answered.
    Index("outcomes_by_request", "request", "model", "generation", unique=True),
)

feedback = Table(
    "feedback",
    metadata,
    # From the same counter as outcomes, so that replay meets both in the order they came.
    Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True),
    Column("outcome_id", BigInteger, nullable=False, unique=True),
    Column("idempotency", LargeBinary(16), nullable=False),
    Column("score", Double, nullable=False),
    Column("comment", Text),
)

# Scores whose answer is not recorded yet; an outcome keeps only the digest of its id.
pending_feedback = Table(
    "pending_feedback",
    metadata,
    Column("request", Text, primary_key=True),
    Column("at_s", Double, nullable=False),
    Column("score", Double, nullable=False),
    Column("idempotency", Text, nullable=False),
    Column("comment", Text),
    Column("source", Text),
)

batches = Table(
    "batches",
    metadata,
    Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True),
    Column("batch", LargeBinary(16), nullable=False, unique=True),
)

knowledge = Table(
    "knowledge",
    metadata,
    Column("task", Text, primary_key=True),
    Column("doc", Text, nullable=False),
)

evidence = Table(
    "evidence",
    metadata,
    Column("task", Text, primary_key=True),
    Column("model", Text, primary_key=True),
    Column("doc", Text, nullable=False),
)

# Which foreign evidence was merged already: importing the same file twice adds nothing.
imports = Table(
    "imports",
    metadata,
    Column("origin", Text, primary_key=True),
    Column("task", Text, primary_key=True),
    Column("model", Text, primary_key=True),
)

decisions = Table(
    "decisions",
    metadata,
    Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True),
    Column("task", Text, nullable=False),
    Column("at_s", Double, nullable=False),
    Column("swap_id", Text),
    Column("doc", Text, nullable=False),
    Index("decisions_by_task", "task", "id"),
    Index("decisions_by_swap", "swap_id"),
)

experiments = Table(
    "experiments",
    metadata,
    Column("task", Text, primary_key=True),
    Column("doc", Text, nullable=False),
)

settings = Table(
    "settings",
    metadata,
    Column("name", Text, primary_key=True),
    Column("doc", Text, nullable=False),
)

ab_tests = Table(
    "ab_tests",
    metadata,
    Column("id", Text, primary_key=True),
    Column("task", Text, nullable=False),
    Column("open", Boolean, nullable=False),
    Column("at_s", Double, nullable=False),
    Column("doc", Text, nullable=False),
    Index("ab_tests_by_time", "at_s"),
)
