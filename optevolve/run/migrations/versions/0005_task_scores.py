"""Scores on each of several tasks: what earlier studies measured has none."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """To this schema from the one before."""
    op.add_column("evaluations", sa.Column("task_scores", sa.JSON(), nullable=False, server_default="[]"))
