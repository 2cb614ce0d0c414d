"""What a manifest's vectors have read, so that a refresh knows what came since."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the moment; manifests of before have no files to go back to."""
    op.add_column("embedding_manifests", sa.Column("ingested_until", sa.DateTime(), nullable=True))
    manifests = sa.table(
        "embedding_manifests",
        sa.column("state", sa.String),
        sa.column("created_at", sa.DateTime),
        sa.column("activated_at", sa.DateTime),
    )
    unknown = manifests.c.activated_at.is_(None)
    op.execute(manifests.update().where(manifests.c.state == "retired", unknown).values(state="removed"))
    op.execute(
        manifests.update()
        .where(manifests.c.state == "active", unknown)
        .values(activated_at=manifests.c.created_at)
    )


def downgrade() -> None:
    """Take it away again."""
    op.drop_column("embedding_manifests", "ingested_until")
