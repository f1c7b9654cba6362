"""What a measurement was computed on: of earlier studies it is in the protocol."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """To this schema from the one before."""
    op.add_column("evaluations", sa.Column("device", sa.Text(), nullable=False, server_default=""))
