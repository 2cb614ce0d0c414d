"""Feast's SQLite online store, made safe: no late overwrite, no absurd row, no stale read, one clock.

The stock store of 0.67, measured: a late event overwrites a newer value, NaN and times
in the future are stored, time to live is ignored, times are whole seconds in the zone of the process.
"""

import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from itertools import chain
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from feast import Entity, FeatureView, RepoConfig
from feast.infra.key_encoding_utils import deserialize_entity_key, serialize_entity_key
from feast.infra.online_stores.sqlite import SqliteOnlineStore, SqliteOnlineStoreConfig
from feast.infra.online_stores.sqlite import _alter_table_add_column_if_missing as add_column
from feast.infra.online_stores.sqlite import _quote_id as quote
from feast.infra.online_stores.sqlite import _table_id as table_id
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from pydantic import Field, StrictStr

from qanchor.errors import DiskFull, NotReady, StateError, StoreUnavailable
from qanchor.storage.feast_ext import registry
from qanchor.storage.feast_ext.guards import (
    RequestRefused,
    check_future,
    check_search,
    known_metric,
    oldest_served,
)
from qanchor.storage.feast_ext.home import home_of_config
from qanchor.storage.feast_ext.packing import PackedRows, StoredRow, pack_batch, stored_vectors
from qanchor.storage.parts import Matrix
from qanchor.times import DAY_SECONDS, from_microseconds

# Feast imports this module before it opens the registry, whose URL names the plug-in.
registry.register()

_KEYS_PER_QUERY = 5_000
_WAIT_SECONDS = 30.0
# Users come in no order: SQLite's default of two MiB would read the key's tree again for each.
_CACHE_KIB = 65_536
# One statement a row takes half as long again, and releases the interpreter each time.
_ROWS_PER_STATEMENT = 100
_CLASS: Final = "qanchor.storage.feast_ext.online_store.GuardedSqliteOnlineStore"


class GuardedSqliteOnlineStoreConfig(SqliteOnlineStoreConfig):  # type: ignore[misc]  # Feast has no types
    """The `online_store` section of feature_store.yaml."""

    type: Literal["qanchor.storage.feast_ext.online_store.GuardedSqliteOnlineStore"] = _CLASS
    path: StrictStr = Field(
        "", description="SQLite file; empty: online.db in the home, relative: in the home"
    )
    future_seconds: float = Field(
        float(DAY_SECONDS), ge=0, description="maximum clock skew of a row's time, seconds"
    )
    ttl_on_read: bool = Field(True, description="rows older than their view's ttl are not served")


class GuardedSqliteOnlineStore(SqliteOnlineStore):  # type: ignore[misc]  # Feast has no types
    """The newest row of each key, by (event time, creation time) to the microsecond.

    The stock store's columns keep the stock store's bytes under TZ=UTC; two more carry the microseconds.
    """

    _conn: sqlite3.Connection | None

    def __init__(self) -> None:
        super().__init__()
        self._conn = None
        self._writing = threading.Lock()

    @staticmethod
    def now() -> datetime:
        """The moment that ttl and future times are judged by; UTC."""
        return datetime.now(UTC)

    @staticmethod
    def _get_db_path(config: RepoConfig) -> str:
        if not config.online_store.path:
            return str(home_of_config(config).online_store)
        path = Path(config.online_store.path).expanduser()
        return str(path if path.is_absolute() else home_of_config(config).root / path)

    def _get_conn(self, config: RepoConfig) -> sqlite3.Connection:
        if self._conn is None:
            path = Path(self._get_db_path(config))
            path.parent.mkdir(parents=True, exist_ok=True)
            # No detect_types: Feast's converters turn seconds into the local time of the process.
            connection = sqlite3.connect(path, timeout=_WAIT_SECONDS, check_same_thread=False)
            with _answering(""):
                connection.execute("PRAGMA journal_mode=WAL")
                connection.execute("PRAGMA synchronous=NORMAL")
                connection.execute(f"PRAGMA cache_size=-{_CACHE_KIB}")
            self._conn = connection
        return self._conn

    async def close(self) -> None:
        """As `release`: Feast's server awaits this when it ends."""
        self.release()

    def release(self) -> None:
        """Give the file back; the next call opens it again."""
        if self._conn is not None:
            self._conn.close()
            self._conn = None

    def update(
        self,
        config: RepoConfig,
        tables_to_delete: Sequence[FeatureView],
        tables_to_keep: Sequence[FeatureView],
        *rest: Any,
        **named: Any,
    ) -> None:
        """Create the tables of the views that stay and drop the others, as `feast apply` asks."""
        super().update(config, tables_to_delete, [], *rest, **named)
        connection = self._get_conn(config)
        for view in tables_to_keep:
            table = self._table(config, view)
            connection.execute(_CREATE.format(table=quote(table)))
            for column in ("event_us", "created_us"):
                add_column(connection, table, column, "INTEGER")
            # The primary key begins with the same column; the stock store's index doubles a write's cost.
            connection.execute(f"DROP INDEX IF EXISTS {quote(table + '_ek')}")

    def plan(self, config: RepoConfig, desired_registry_proto: Any) -> list[Any]:  # noqa: ARG002  # Feast's signature
        """Nothing: tables follow views. Feast remembers planned tables of its two classes alone, and would
        report those of any other store as new each time."""
        return []

    def teardown(self, config: RepoConfig, tables: Sequence[FeatureView], entities: Sequence[Entity]) -> None:
        """Delete the file, with the files of its WAL."""
        super().teardown(config, tables, entities)
        for suffix in ("-wal", "-shm"):
            Path(self._get_db_path(config) + suffix).unlink(missing_ok=True)

    @staticmethod
    def _table(config: RepoConfig, view: FeatureView) -> str:
        name: str = table_id(config.project, view, config.registry.enable_online_feature_view_versioning)
        return name

    def online_write_batch(
        self,
        config: RepoConfig,
        table: FeatureView,
        data: Sequence[Any],
        progress: Callable[[int], Any] | None,
    ) -> None:
        """Write rows that Feast packed itself (`write_to_online_store`, `push`, stock engines).

        Raises:
            FeaturesInvalid: a vector or time is refused; nothing of the batch is written.
        """
        self._upsert(
            config, table, [row for rows in pack_batch(config, table, data) for row in rows.stored()]
        )
        if progress:
            progress(len(data))

    def write_packed(self, config: RepoConfig, table: FeatureView, packed: PackedRows) -> None:
        """Write rows that are packed already; their vectors were checked as they were packed.

        Raises:
            FeaturesInvalid: a time is in the future; nothing of the batch is written.
        """
        self._upsert(config, table, list(packed.stored()))

    def clear(self, config: RepoConfig, table: FeatureView) -> None:
        """Delete every row of a view: a rollback must get past the guard."""
        name = quote(self._table(config, table))
        with self._writing, _answering(table.name), self._get_conn(config) as connection:
            connection.execute(f"DELETE FROM {name}")  # quoted

    def _upsert(self, config: RepoConfig, view: FeatureView, rows: Sequence[StoredRow]) -> None:
        limit = self.now() + timedelta(seconds=config.online_store.future_seconds)
        check_future(view, (row[4] for row in rows), limit)
        table = quote(self._table(config, view))
        whole = len(rows) - len(rows) % _ROWS_PER_STATEMENT
        parts = (rows[first : first + _ROWS_PER_STATEMENT] for first in range(0, whole, _ROWS_PER_STATEMENT))
        many, one = (
            _UPSERT.format(table=table, rows=", ".join([_ROW] * count)) for count in (_ROWS_PER_STATEMENT, 1)
        )
        with self._writing, _answering(view.name), self._get_conn(config) as connection:
            connection.executemany(many, (tuple(chain.from_iterable(part)) for part in parts))
            connection.executemany(one, rows[whole:])

    def online_read(
        self,
        config: RepoConfig,
        table: FeatureView,
        entity_keys: Sequence[Any],
        requested_features: Sequence[str] | None = None,
    ) -> list[tuple[datetime | None, dict[str, Any] | None]]:
        """For each key its row's time and values, or (None, None) where there is none or it is too old."""
        version = config.entity_key_serialization_version
        keys = [serialize_entity_key(entity, version) for entity in entity_keys]
        rows: dict[bytes, tuple[datetime, dict[str, Any]]] = {}
        for key, name, blob, event_us in self._read(config, table, keys, requested_features):
            value = Value()
            value.ParseFromString(blob)
            rows.setdefault(key, (from_microseconds(event_us), {}))[1][name] = value
        return [rows.get(key, (None, None)) for key in keys]

    def _read(
        self, config: RepoConfig, view: FeatureView, keys: Sequence[bytes], features: Sequence[str] | None
    ) -> Iterator[tuple[bytes, str, bytes, int]]:
        connection, table = self._get_conn(config), quote(self._table(config, view))
        oldest = oldest_served(view, self.now(), config.online_store.ttl_on_read)
        names = [field.name for field in view.features] if features is None else features
        chosen = f" AND feature_name IN ({','.join('?' * len(names))})"
        for first in range(0, len(keys), _KEYS_PER_QUERY):
            some = keys[first : first + _KEYS_PER_QUERY]
            marks = ",".join("?" * len(some))
            with _answering(view.name):
                yield from connection.execute(
                    f"SELECT entity_key, feature_name, value, {_EVENT_US} FROM {table}"  # quoted
                    f" WHERE entity_key IN ({marks}) AND {_EVENT_US} >= ?{chosen}",
                    (*some, oldest, *names),
                )

    def retrieve_online_documents(self, config: RepoConfig, table: FeatureView, *_: Any, **__: Any) -> Any:  # noqa: ARG002  # Feast's signature
        """Refused: the first form of the search needs an extension of SQLite that Feast cannot load.

        Raises:
            RequestRefused: always.
        """
        raise RequestRefused(
            f"{table.name}: this online store has the second form of document retrieval alone",
            "Call retrieve_online_documents_v2; over HTTP, api_version 2.",
        )

    def retrieve_online_documents_v2(  # noqa: PLR0913, PLR0917  # Feast's signature
        self,
        config: RepoConfig,
        table: FeatureView,
        requested_features: list[str],
        embedding: list[float] | None,
        top_k: int,
        distance_metric: str | None = None,
        query_string: str | None = None,
        filters: object = None,
        include_feature_view_version_metadata: bool = False,  # noqa: ARG002
    ) -> list[tuple[datetime | None, Any, dict[str, Any]]]:
        """The nearest rows by exact search, in the order of their keys.

        Feast 0.67 puts the keys of the answer in the store's order but distances and features in the order of
        sorted keys. Rows that come sorted by key agree with both; the caller sorts the answer by distance.

        Raises:
            RequestRefused: there is no query vector or it is of the wrong width, the view has no vector, or
                the metric is unknown.
        """
        field = check_search(table, embedding, query_string, filters)
        metric = known_metric(table, distance_metric)
        query = np.asarray(embedding, np.float32)
        with _answering(table.name):
            stored = (
                self._get_conn(config)
                .execute(
                    f"SELECT entity_key, value FROM {quote(self._table(config, table))}"  # quoted
                    f" WHERE feature_name = ? AND {_EVENT_US} >= ?",
                    (field.name, oldest_served(table, self.now(), config.online_store.ttl_on_read)),
                )
                .fetchall()
            )
        kept, matrix = stored_vectors([blob for _, blob in stored], len(query))
        distances = _distances(matrix, query, metric)
        nearest = np.argsort(distances, kind="stable")[:top_k]
        version = config.entity_key_serialization_version
        entities = [deserialize_entity_key(stored[kept[i]][0], version) for i in nearest]
        rows = self.online_read(config, table, entities, requested_features)
        answer = [
            (moment, entity, {**(values or {}), "distance": Value(float_val=float(distances[i]))})
            for i, entity, (moment, values) in zip(nearest, entities, rows, strict=True)
        ]
        return sorted(answer, key=lambda row: _sort_key(row[1]))


# The stock store's columns, and two of ours.
_CREATE = """
    CREATE TABLE IF NOT EXISTS {table} (
        entity_key BLOB, feature_name TEXT, value BLOB, value_text TEXT, vector_value BLOB,
        event_ts timestamp, created_ts timestamp, event_us INTEGER, created_us INTEGER,
        PRIMARY KEY (entity_key, feature_name)
    )
"""
# Rows of the stock store have no microseconds: their seconds are used.
_EVENT_US = "coalesce(event_us, event_ts * 1000000)"
_ROW = "(?, ?, ?, ?, ?, ?, ?, ?)"
_UPSERT = """
    INSERT INTO {table}
        (entity_key, feature_name, value, value_text, event_us, created_us, event_ts, created_ts)
    VALUES {rows}
    ON CONFLICT (entity_key, feature_name) DO UPDATE SET
        value = excluded.value, value_text = excluded.value_text,
        event_us = excluded.event_us, created_us = excluded.created_us,
        event_ts = excluded.event_ts, created_ts = excluded.created_ts
    WHERE (excluded.event_us, coalesce(excluded.created_us, 0)) >= (
        coalesce({table}.event_us, {table}.event_ts * 1000000),
        coalesce({table}.created_us, {table}.created_ts * 1000000, 0)
    )
"""


def _sort_key(entity: EntityKey) -> tuple[Any, ...]:
    # The order that Feast groups keys by.
    return tuple(getattr(value, value.WhichOneof("val")) for value in entity.entity_values)


def _distances(matrix: Matrix, query: Matrix, metric: str) -> Matrix:
    if metric == "L2":
        return np.asarray(np.linalg.norm(matrix - query, axis=1), np.float32)
    products: Matrix = matrix @ query
    if metric == "INNER_PRODUCT":
        return -products
    lengths = np.linalg.norm(matrix, axis=1) * np.linalg.norm(query)
    return np.asarray(1.0 - products / np.maximum(lengths, np.finfo(np.float32).tiny), np.float32)


@contextmanager
def _answering(view: str) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise _as_ours(error, view) from error


def _as_ours(error: sqlite3.Error, view: str) -> Exception:
    """SQLite's error as one with a remedy; others stay as they are."""
    reason = str(error)
    if "no such table" in reason:
        return NotReady(f"the online store has no view {view!r}", "Run `feast apply` in the repository.")
    if "disk is full" in reason:
        return DiskFull("no space left for the online store", "Free some space and run it again.")
    if "locked" in reason:
        return StoreUnavailable(
            "the online store is locked by another writer", "Let it finish, then run this again."
        )
    if "malformed" in reason or "not a database" in reason:
        return StateError(
            f"the online store is damaged: {reason}",
            "Delete online.db, run `feast apply` and materialize again.",
        )
    return error
