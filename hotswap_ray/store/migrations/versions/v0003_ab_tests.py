"""A/B tests."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Add a table."""
    op.create_table(
        "ab_tests",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("task", sa.Text, nullable=False),
        sa.Column("open", sa.Boolean, nullable=False),
        sa.Column("at_s", sa.Double, nullable=False),
        sa.Column("doc", sa.Text, nullable=False),
    )
    op.create_index("ab_tests_by_time", "ab_tests", ["at_s"])
