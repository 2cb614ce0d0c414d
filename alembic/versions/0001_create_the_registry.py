"""Create the registry: every table of qanchor.registry.tables."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the tables, those that others refer to first."""
    op.create_table(
        "heads",
        sa.Column("version", sa.String(length=64), nullable=False),
        sa.Column("scenario", sa.String(length=48), nullable=False),
        sa.Column("fingerprint", sa.String(length=64), nullable=False),
        sa.Column("path", sa.String(length=512), nullable=False),
        sa.Column("metrics", sa.JSON(), nullable=False),
        sa.Column("active", sa.Boolean(), nullable=False),
        sa.Column("created_at", sa.DateTime(), nullable=False),
        sa.PrimaryKeyConstraint("version", name="pk_heads"),
    )
    op.create_table(
        "jobs",
        sa.Column("id", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("kind", sa.String(length=32), nullable=False),
        sa.Column("scenario", sa.String(length=48), nullable=True),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("done", sa.BigInteger(), nullable=False),
        sa.Column("total", sa.BigInteger(), nullable=True),
        sa.Column("parameters", sa.JSON(), nullable=False),
        sa.Column("error", sa.String(length=512), nullable=True),
        sa.Column("started_at", sa.DateTime(), nullable=False),
        sa.Column("heartbeat_at", sa.DateTime(), nullable=False),
        sa.Column("finished_at", sa.DateTime(), nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_jobs"),
    )
    op.create_table(
        "label_sets",
        sa.Column("scenario", sa.String(length=48), nullable=False),
        sa.Column("path", sa.String(length=512), nullable=False),
        sa.Column("rows", sa.Integer(), nullable=False),
        sa.Column("positives", sa.Integer(), nullable=False),
        sa.Column("earliest_as_of", sa.DateTime(), nullable=False),
        sa.Column("content_hash", sa.String(length=64), nullable=False),
        sa.Column("created_at", sa.DateTime(), nullable=False),
        sa.PrimaryKeyConstraint("scenario", name="pk_label_sets"),
    )
    op.create_table(
        "ledger_files",
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("event_date", sa.String(length=10), nullable=False),
        sa.Column("rows", sa.BigInteger(), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("created_at", sa.DateTime(), nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_ledger_files"),
    )
    op.create_index("ix_ledger_files_state", "ledger_files", ["state"])
    op.create_table(
        "ledger_offsets",
        sa.Column("consumer_group", sa.String(length=128), nullable=False),
        sa.Column("topic", sa.String(length=249), nullable=False),
        sa.Column("partition", sa.Integer(), nullable=False),
        sa.Column("next_offset", sa.BigInteger(), nullable=False),
        sa.Column("updated_at", sa.DateTime(), nullable=False),
        sa.PrimaryKeyConstraint("consumer_group", "topic", "partition", name="pk_ledger_offsets"),
    )
    op.create_table(
        "loaded_files",
        sa.Column("id", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("content_hash", sa.String(length=64), nullable=False),
        sa.Column("path", sa.String(length=512), nullable=False),
        sa.Column("rows", sa.BigInteger(), nullable=False),
        sa.Column("rejected", sa.BigInteger(), nullable=False),
        sa.Column("created_at", sa.DateTime(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_loaded_files"),
        sa.UniqueConstraint("content_hash", name="uq_loaded_files_content_hash"),
    )
    op.create_table(
        "model_versions",
        sa.Column("version", sa.String(length=64), nullable=False),
        sa.Column("preset", sa.String(length=32), nullable=False),
        sa.Column("path", sa.String(length=512), nullable=False),
        sa.Column("content_hash", sa.String(length=64), nullable=False),
        sa.Column("trained_until", sa.DateTime(), nullable=False),
        sa.Column("metrics", sa.JSON(), nullable=False),
        sa.Column("active", sa.Boolean(), nullable=False),
        sa.Column("created_at", sa.DateTime(), nullable=False),
        sa.PrimaryKeyConstraint("version", name="pk_model_versions"),
    )
    op.create_table(
        "scenarios",
        sa.Column("name", sa.String(length=48), nullable=False),
        sa.Column("domain", sa.String(length=16), nullable=False),
        sa.Column("query", sa.String(length=512), nullable=False),
        sa.Column("horizon_days", sa.Integer(), nullable=False),
        sa.Column("ttl_days", sa.Integer(), nullable=False),
        sa.Column("updated_at", sa.DateTime(), nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_scenarios"),
    )
    op.create_table(
        "prompt_versions",
        sa.Column("version", sa.String(length=64), nullable=False),
        sa.Column("scenario", sa.String(length=48), nullable=False),
        sa.Column("model_version", sa.String(length=64), nullable=False),
        sa.Column("path", sa.String(length=512), nullable=False),
        sa.Column("content_hash", sa.String(length=64), nullable=False),
        sa.Column("test_fold", sa.Integer(), nullable=True),
        sa.Column("metrics", sa.JSON(), nullable=False),
        sa.Column("active", sa.Boolean(), nullable=False),
        sa.Column("created_at", sa.DateTime(), nullable=False),
        sa.ForeignKeyConstraint(
            ["model_version"],
            ["model_versions.version"],
            name="fk_prompt_versions_model_version_model_versions",
        ),
        sa.PrimaryKeyConstraint("version", name="pk_prompt_versions"),
    )
    op.create_index("ix_prompt_versions_scenario_active", "prompt_versions", ["scenario", "active"])
    op.create_table(
        "embedding_manifests",
        sa.Column("id", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("scenario", sa.String(length=48), nullable=False),
        sa.Column("model_version", sa.String(length=64), nullable=False),
        sa.Column("prompt_version", sa.String(length=64), nullable=True),
        sa.Column("fingerprint", sa.String(length=64), nullable=False),
        sa.Column("as_of", sa.DateTime(), nullable=True),
        sa.Column("rows", sa.BigInteger(), nullable=False),
        sa.Column("content_hash", sa.String(length=64), nullable=False),
        sa.Column("path", sa.String(length=512), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("created_at", sa.DateTime(), nullable=False),
        sa.ForeignKeyConstraint(
            ["model_version"],
            ["model_versions.version"],
            name="fk_embedding_manifests_model_version_model_versions",
        ),
        sa.ForeignKeyConstraint(
            ["prompt_version"],
            ["prompt_versions.version"],
            name="fk_embedding_manifests_prompt_version_prompt_versions",
        ),
        sa.PrimaryKeyConstraint("id", name="pk_embedding_manifests"),
    )
    op.create_index("ix_embedding_manifests_scenario_state", "embedding_manifests", ["scenario", "state"])
    op.create_table(
        "index_versions",
        sa.Column("version", sa.String(length=64), nullable=False),
        sa.Column("scenario", sa.String(length=48), nullable=False),
        sa.Column("manifest_id", sa.Integer(), nullable=False),
        sa.Column("fingerprint", sa.String(length=64), nullable=False),
        sa.Column("kind", sa.String(length=64), nullable=False),
        sa.Column("path", sa.String(length=512), nullable=False),
        sa.Column("rows", sa.BigInteger(), nullable=False),
        sa.Column("recall", sa.Double(), nullable=True),
        sa.Column("active", sa.Boolean(), nullable=False),
        sa.Column("created_at", sa.DateTime(), nullable=False),
        sa.ForeignKeyConstraint(
            ["manifest_id"],
            ["embedding_manifests.id"],
            name="fk_index_versions_manifest_id_embedding_manifests",
        ),
        sa.PrimaryKeyConstraint("version", name="pk_index_versions"),
    )


def downgrade() -> None:
    """Take it back, tables that refer to others first."""
    for table in (
        "index_versions",
        "embedding_manifests",
        "prompt_versions",
        "scenarios",
        "model_versions",
        "loaded_files",
        "ledger_offsets",
        "ledger_files",
        "label_sets",
        "jobs",
        "heads",
    ):
        op.drop_table(table)
