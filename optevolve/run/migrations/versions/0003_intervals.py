"""Intervals of fitnesses."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """To this schema from the one before."""
    op.add_column("evaluations", sa.Column("interval_low", sa.Float(), nullable=True))
    op.add_column("evaluations", sa.Column("interval_high", sa.Float(), nullable=True))
