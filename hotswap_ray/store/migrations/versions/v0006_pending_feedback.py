"""Scores that came before their answer was recorded."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """Add a table."""
    op.create_table(
        "pending_feedback",
        sa.Column("request", sa.Text, primary_key=True),
        sa.Column("at_s", sa.Double, nullable=False),
        sa.Column("score", sa.Double, nullable=False),
        sa.Column("idempotency", sa.Text, nullable=False),
        sa.Column("comment", sa.Text),
        sa.Column("source", sa.Text),
    )
