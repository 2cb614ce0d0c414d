"""Jobs in shards, and manifests that wait for their gates."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the shards, the leases and what a promotion was judged by."""
    op.add_column("jobs", sa.Column("key", sa.String(length=64), nullable=True))
    op.add_column("jobs", sa.Column("lease_owner", sa.String(length=128), nullable=True))
    op.add_column("jobs", sa.Column("lease_until", sa.BigInteger(), nullable=True))
    op.create_index("ix_jobs_key", "jobs", ["key"], unique=True)
    op.create_table(
        "job_shards",
        sa.Column("job_id", sa.Integer(), nullable=False),
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("owner", sa.String(length=128), nullable=True),
        sa.Column("lease_until", sa.BigInteger(), nullable=True),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("result", sa.JSON(), nullable=True),
        sa.Column("finished_at", sa.DateTime(), nullable=True),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name="fk_job_shards_job_id_jobs"),
        sa.PrimaryKeyConstraint("job_id", "number", name="pk_job_shards"),
    )
    # Column by column: SQLite would have to copy the table otherwise, and indexes refer to its rows.
    op.add_column("embedding_manifests", sa.Column("job_id", sa.Integer(), nullable=True))
    op.add_column("embedding_manifests", sa.Column("gates", sa.JSON(), nullable=True))
    op.add_column("embedding_manifests", sa.Column("activated_at", sa.DateTime(), nullable=True))


def downgrade() -> None:
    """Take them away again."""
    for column in ("activated_at", "gates", "job_id"):
        op.drop_column("embedding_manifests", column)
    op.drop_table("job_shards")
    op.drop_index("ix_jobs_key", "jobs")
    for column in ("lease_until", "lease_owner", "key"):
        op.drop_column("jobs", column)
