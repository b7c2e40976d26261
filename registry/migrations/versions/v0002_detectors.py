"""What detectors remember, stored with the counts that it came from."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the table of detectors' states."""
    op.create_table(
        "detectors",
        sa.Column("tenant", sa.String(length=100), server_default="default", nullable=False),
        sa.Column("model", sa.String(length=100), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(length=100), nullable=False),
        sa.Column("document", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("tenant", "model", "version", "name"),
    )


def downgrade() -> None:
    """Not offered: going back would lose decisions."""
    raise NotImplementedError("restore a backup instead")
