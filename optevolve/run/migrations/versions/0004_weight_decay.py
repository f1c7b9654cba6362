"""Weight decays: what earlier studies measured had none."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """To this schema from the one before."""
    op.add_column("evaluations", sa.Column("fixed_weight_decay", sa.Float(), nullable=True))
    op.add_column("evaluations", sa.Column("weight_decay", sa.Float(), nullable=False, server_default="0"))
    op.add_column("curves", sa.Column("weight_decay", sa.Float(), nullable=False, server_default="0"))
