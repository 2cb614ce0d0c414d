"""How many numbers a manifest's vectors have, since scenarios may be served at narrower widths."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the width; all manifests of before have whole vectors."""
    width = sa.Column("width", sa.Integer(), nullable=False, server_default="128")
    op.add_column("embedding_manifests", width)


def downgrade() -> None:
    """Take it away again."""
    op.drop_column("embedding_manifests", "width")
