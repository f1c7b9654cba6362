"""Counts of training steps beyond 31 bits, and children found by their parent."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """To this schema from the one before."""
    if op.get_bind().dialect.name != "sqlite":  # where every integer has 64 bits
        op.alter_column("evaluations", "steps", type_=sa.BigInteger(), existing_type=sa.Integer(), existing_nullable=False)
    op.create_index(op.f("ix_proposals_study_parent"), "proposals", ["study", "parent"], unique=False)
