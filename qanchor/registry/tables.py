"""The registry's tables; alembic owns the schema, a test keeps the two equal.

Times are UTC and stored without a zone, because SQLite keeps none. Versions are text, made by
`new_version`, and sort by the time they were made.
"""

import secrets
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import JSON, BigInteger, ForeignKey, Index, MetaData, String, UniqueConstraint
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from qanchor.names import EMBEDDING_WIDTH

_NAMING = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}


def utc_now() -> datetime:
    """Now, UTC, without a zone: the form that every table stores."""
    return datetime.now(UTC).replace(tzinfo=None)


def new_version() -> str:
    """A version name that sorts by time and does not collide: 20261120T101500-3f9a2c."""
    return f"{utc_now():%Y%m%dT%H%M%S}-{secrets.token_hex(3)}"


class Base(DeclarativeBase):
    """Base of all tables."""

    metadata = MetaData(naming_convention=_NAMING)
    type_annotation_map = {dict[str, Any]: JSON, str: String(512)}  # noqa: RUF012  # SQLAlchemy's protocol


class Scenario(Base):
    """A scenario as it was last seen in scenarios.yaml."""

    __tablename__ = "scenarios"

    name: Mapped[str] = mapped_column(String(48), primary_key=True)
    domain: Mapped[str] = mapped_column(String(16))
    query: Mapped[str]
    horizon_days: Mapped[int]
    ttl_days: Mapped[int]
    updated_at: Mapped[datetime] = mapped_column(default=utc_now, onupdate=utc_now)


class LabelSet(Base):
    """The labels in use for a scenario; the rows are a Parquet file."""

    __tablename__ = "label_sets"

    scenario: Mapped[str] = mapped_column(String(48), primary_key=True)
    path: Mapped[str]
    rows: Mapped[int]
    positives: Mapped[int]
    earliest_as_of: Mapped[datetime]
    content_hash: Mapped[str] = mapped_column(String(64))
    created_at: Mapped[datetime] = mapped_column(default=utc_now)


class ModelVersion(Base):
    """A pre-trained Q-Anchor; the newest active one serves."""

    __tablename__ = "model_versions"

    version: Mapped[str] = mapped_column(String(64), primary_key=True)
    preset: Mapped[str] = mapped_column(String(32))
    path: Mapped[str]
    content_hash: Mapped[str] = mapped_column(String(64))
    trained_until: Mapped[datetime]
    metrics: Mapped[dict[str, Any]]
    active: Mapped[bool] = mapped_column(default=True)
    created_at: Mapped[datetime] = mapped_column(default=utc_now)


class PromptVersion(Base):
    """A tuned soft prompt of one scenario on one model."""

    __tablename__ = "prompt_versions"
    __table_args__ = (Index(None, "scenario", "active"),)

    version: Mapped[str] = mapped_column(String(64), primary_key=True)
    scenario: Mapped[str] = mapped_column(String(48))
    model_version: Mapped[str] = mapped_column(ForeignKey("model_versions.version"))
    path: Mapped[str]
    content_hash: Mapped[str] = mapped_column(String(64))
    test_fold: Mapped[int | None]
    metrics: Mapped[dict[str, Any]]
    active: Mapped[bool] = mapped_column(default=True)
    created_at: Mapped[datetime] = mapped_column(default=utc_now)


class Job(Base):
    """One long command: its parameters, its progress and how it ended.

    A job in shards has a `key` while it can be resumed; two of one key cannot be.
    """

    __tablename__ = "jobs"
    __table_args__ = (Index(None, "key", unique=True),)

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    kind: Mapped[str] = mapped_column(String(32))
    key: Mapped[str | None] = mapped_column(String(64))
    lease_owner: Mapped[str | None] = mapped_column(String(128))
    lease_until: Mapped[int | None] = mapped_column(BigInteger)
    scenario: Mapped[str | None] = mapped_column(String(48))
    state: Mapped[str] = mapped_column(String(16), default="running")
    done: Mapped[int] = mapped_column(BigInteger, default=0)
    total: Mapped[int | None] = mapped_column(BigInteger)
    parameters: Mapped[dict[str, Any]] = mapped_column(default=dict)
    error: Mapped[str | None]
    started_at: Mapped[datetime] = mapped_column(default=utc_now)
    heartbeat_at: Mapped[datetime] = mapped_column(default=utc_now)
    finished_at: Mapped[datetime | None]


class JobShard(Base):
    """A piece of a job that one worker does at a time: 'waiting', 'leased' until a moment, 'done'.

    Leases are in milliseconds of the DATABASE's clock: workers' clocks may disagree.
    """

    __tablename__ = "job_shards"

    job_id: Mapped[int] = mapped_column(ForeignKey("jobs.id"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    state: Mapped[str] = mapped_column(String(16), default="waiting")
    owner: Mapped[str | None] = mapped_column(String(128))
    lease_until: Mapped[int | None] = mapped_column(BigInteger)
    attempts: Mapped[int] = mapped_column(default=0)
    size: Mapped[int] = mapped_column(BigInteger)
    result: Mapped[dict[str, Any] | None]
    finished_at: Mapped[datetime | None]


class EmbeddingManifest(Base):
    """One set of vectors of one scenario; readers see it once its state is 'active'."""

    __tablename__ = "embedding_manifests"
    __table_args__ = (Index(None, "scenario", "state"),)

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    scenario: Mapped[str] = mapped_column(String(48))
    model_version: Mapped[str] = mapped_column(ForeignKey("model_versions.version"))
    prompt_version: Mapped[str | None] = mapped_column(ForeignKey("prompt_versions.version"))
    fingerprint: Mapped[str] = mapped_column(String(64))
    width: Mapped[int] = mapped_column(default=EMBEDDING_WIDTH, server_default=str(EMBEDDING_WIDTH))
    as_of: Mapped[datetime | None]
    rows: Mapped[int] = mapped_column(BigInteger)
    content_hash: Mapped[str] = mapped_column(String(64))
    path: Mapped[str]
    state: Mapped[str] = mapped_column(String(16), default="building")
    job_id: Mapped[int | None]
    gates: Mapped[dict[str, Any] | None]
    ingested_until: Mapped[datetime | None]
    created_at: Mapped[datetime] = mapped_column(default=utc_now)
    activated_at: Mapped[datetime | None]


class IndexVersion(Base):
    """A FAISS index over one manifest's vectors."""

    __tablename__ = "index_versions"

    version: Mapped[str] = mapped_column(String(64), primary_key=True)
    scenario: Mapped[str] = mapped_column(String(48))
    manifest_id: Mapped[int] = mapped_column(ForeignKey("embedding_manifests.id"))
    fingerprint: Mapped[str] = mapped_column(String(64))
    kind: Mapped[str] = mapped_column(String(64))
    path: Mapped[str]
    rows: Mapped[int] = mapped_column(BigInteger)
    recall: Mapped[float | None]
    active: Mapped[bool] = mapped_column(default=True)
    created_at: Mapped[datetime] = mapped_column(default=utc_now)


class Head(Base):
    """A LightGBM head; it scores vectors of its fingerprint only."""

    __tablename__ = "heads"

    version: Mapped[str] = mapped_column(String(64), primary_key=True)
    scenario: Mapped[str] = mapped_column(String(48))
    fingerprint: Mapped[str] = mapped_column(String(64))
    path: Mapped[str]
    metrics: Mapped[dict[str, Any]]
    active: Mapped[bool] = mapped_column(default=True)
    created_at: Mapped[datetime] = mapped_column(default=utc_now)


class Audience(Base):
    """One version of a saved list of users; the members are a Parquet file.

    `kind` is 'lookalike', 'describe', or an operation on other audiences. Index, space and seeds are those of
    a search; an operation has none.
    """

    __tablename__ = "audiences"
    __table_args__ = (Index(None, "name"),)

    version: Mapped[str] = mapped_column(String(64), primary_key=True)
    name: Mapped[str] = mapped_column(String(64))
    kind: Mapped[str] = mapped_column(String(16))
    scenario: Mapped[str | None] = mapped_column(String(48))
    index_version: Mapped[str | None] = mapped_column(String(64))
    fingerprint: Mapped[str | None] = mapped_column(String(64))
    seeds_hash: Mapped[str | None] = mapped_column(String(64))
    parameters: Mapped[dict[str, Any]]
    path: Mapped[str]
    rows: Mapped[int] = mapped_column(BigInteger)
    content_hash: Mapped[str] = mapped_column(String(64))
    created_at: Mapped[datetime] = mapped_column(default=utc_now)


class LedgerOffset(Base):
    """The next Kafka offset to write for a partition; the truth, unlike Kafka's commit."""

    __tablename__ = "ledger_offsets"

    consumer_group: Mapped[str] = mapped_column(String(128), primary_key=True)
    topic: Mapped[str] = mapped_column(String(249), primary_key=True)
    partition: Mapped[int] = mapped_column(primary_key=True)
    next_offset: Mapped[int] = mapped_column(BigInteger)
    topic_id: Mapped[str] = mapped_column(String(32), default="", server_default="")
    skipped: Mapped[int] = mapped_column(BigInteger, default=0, server_default="0")
    updated_at: Mapped[datetime] = mapped_column(default=utc_now, onupdate=utc_now)


class LedgerFile(Base):
    """A Parquet file of the event log: 'committed' (rename may be due), 'published' or 'replaced'."""

    __tablename__ = "ledger_files"
    __table_args__ = (Index(None, "state"),)

    name: Mapped[str] = mapped_column(String(200), primary_key=True)
    event_date: Mapped[str] = mapped_column(String(10))
    rows: Mapped[int] = mapped_column(BigInteger)
    state: Mapped[str] = mapped_column(String(16))
    created_at: Mapped[datetime] = mapped_column(default=utc_now)


class LoadedFile(Base):
    """A file that `events load` has loaded, by content: loading it again adds nothing."""

    __tablename__ = "loaded_files"
    __table_args__ = (UniqueConstraint("content_hash"),)

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    content_hash: Mapped[str] = mapped_column(String(64))
    path: Mapped[str]
    rows: Mapped[int] = mapped_column(BigInteger)
    rejected: Mapped[int] = mapped_column(BigInteger)
    created_at: Mapped[datetime] = mapped_column(default=utc_now)
