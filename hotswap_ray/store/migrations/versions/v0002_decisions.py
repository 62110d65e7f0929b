"""Decisions with their reasons, running tests, and what operators set at run time."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

ID = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    """Add three tables."""
    op.create_table(
        "decisions",
        sa.Column("id", ID, primary_key=True),
        sa.Column("task", sa.Text, nullable=False),
        sa.Column("at_s", sa.Double, nullable=False),
        sa.Column("swap_id", sa.Text),
        sa.Column("doc", sa.Text, nullable=False),
    )
    op.create_index("decisions_by_task", "decisions", ["task", "id"])
    op.create_index("decisions_by_swap", "decisions", ["swap_id"])
    op.create_table(
        "experiments",
        sa.Column("task", sa.Text, primary_key=True),
        sa.Column("doc", sa.Text, nullable=False),
    )
    op.create_table(
        "settings",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("doc", sa.Text, nullable=False),
    )
