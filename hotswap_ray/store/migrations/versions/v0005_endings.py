"""How a request ended, where success alone does not tell, and with which HTTP status."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Add two columns, at the end as rows are inserted."""
    op.add_column("outcomes", sa.Column("ending", sa.Integer))
    op.add_column("outcomes", sa.Column("status", sa.Integer))
