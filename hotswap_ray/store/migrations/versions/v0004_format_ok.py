"""Whether an answer had the form that was asked for."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Add a column, at the end as rows are inserted."""
    op.add_column("outcomes", sa.Column("format_ok", sa.Boolean))
