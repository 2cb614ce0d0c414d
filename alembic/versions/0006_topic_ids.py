"""Which Kafka topic the ledger's offsets belong to, and how many of them were skipped on request."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add both columns; the next write fills in the topic's id."""
    op.add_column("ledger_offsets", sa.Column("topic_id", sa.String(32), nullable=False, server_default=""))
    op.add_column("ledger_offsets", sa.Column("skipped", sa.BigInteger(), nullable=False, server_default="0"))


def downgrade() -> None:
    """Take them away again."""
    op.drop_column("ledger_offsets", "skipped")
    op.drop_column("ledger_offsets", "topic_id")
