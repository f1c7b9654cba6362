"""Evaluations found by their proposal, so that joins of the two are linear."""

from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    """To this schema from the one before."""
    op.create_index(op.f("ix_evaluations_study_proposal"), "evaluations", ["study", "proposal"], unique=False)
