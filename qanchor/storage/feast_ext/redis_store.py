"""Feast's Redis online store with guards: the newest row stays, in whatever order rows are written.

The stock store of 0.67, measured: it reads a row's time and writes in two steps, so that
of two writers the older row may win; of two rows of one moment the first stays, so that vectors of a new
model for the same cut-off never arrive; an unknown user is answered with a row of 1970; NaN and times in the
future are stored, and a view's time to live is ignored.

Keys, fields and values are the stock store's, to the byte. One more field for each view holds when its
row was created.
"""

import asyncio
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Literal

from feast import FeatureView, RepoConfig
from feast.infra.online_stores.helpers import _mmh3 as field_of
from feast.infra.online_stores.helpers import compute_versioned_name
from feast.infra.online_stores.redis import RedisOnlineStore, RedisOnlineStoreConfig
from google.protobuf.timestamp_pb2 import Timestamp  # type: ignore[import-untyped]
from pydantic import Field
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from qanchor.errors import StoreUnavailable
from qanchor.storage.feast_ext.guards import RequestRefused, check_future, oldest_served
from qanchor.storage.feast_ext.packing import PackedRows, pack_batch
from qanchor.times import DAY_SECONDS, to_microseconds

_CLASS: Final = "qanchor.storage.feast_ext.redis_store.GuardedRedisOnlineStore"
_ROWS_PER_PIPELINE: Final = 2_000
_SECOND: Final = 1_000_000
# Compares and writes in one step. The stock store's time is a protobuf Timestamp: two varints.
_UPSERT: Final = """
local function varints(bytes)
  local fields, i = {}, 1
  while i <= #bytes do
    local tag, value, unit, byte = bytes:byte(i), 0, 1, 0
    repeat
      i = i + 1
      byte = bytes:byte(i)
      value, unit = value + (byte % 128) * unit, unit * 128
    until byte < 128
    fields[tag], i = value, i + 1
  end
  return (fields[8] or 0) * 1000000 + math.floor((fields[16] or 0) / 1000)
end
local stored = redis.call('HMGET', KEYS[1], ARGV[4], ARGV[6])
if stored[1] then
  local event, created = varints(stored[1]), tonumber(stored[2] or '0')
  local new_event, new_created = tonumber(ARGV[2]), tonumber(ARGV[3])
  if new_event < event or (new_event == event and new_created < created) then return 0 end
end
redis.call('HSET', KEYS[1], unpack(ARGV, 4))
if ARGV[1] ~= '0' then redis.call('EXPIRE', KEYS[1], ARGV[1]) end
return 1
"""


class GuardedRedisOnlineStoreConfig(RedisOnlineStoreConfig):  # type: ignore[misc]  # Feast has no types
    """The `online_store` section of feature_store.yaml."""

    type: Literal["qanchor.storage.feast_ext.redis_store.GuardedRedisOnlineStore"] = _CLASS
    future_seconds: float = Field(
        float(DAY_SECONDS), ge=0, description="maximum clock skew of a row's time, seconds"
    )
    ttl_on_read: bool = Field(True, description="rows older than their view's ttl are not served")


class GuardedRedisOnlineStore(RedisOnlineStore):  # type: ignore[misc]  # Feast has no types
    """The newest row of each key, by (event time, creation time) to the microsecond."""

    _client: Any
    _client_async: Any

    def __init__(self) -> None:
        super().__init__()
        self._oldest: dict[str, int] = {}

    @staticmethod
    def now() -> datetime:
        """The moment that ttl and future times are judged by; UTC."""
        return datetime.now(UTC)

    async def close(self) -> None:
        """As `release`, with the asynchronous connections: Feast's server awaits this when it ends."""
        self.release()
        if self._client_async is not None:
            await self._client_async.aclose()
            self._client_async = None

    def release(self) -> None:
        """Give the connections back; the next call opens them again."""
        if self._client is not None:
            self._client.close()
            self._client = None

    def retrieve_online_documents(self, config: RepoConfig, table: FeatureView, *_: Any, **__: Any) -> Any:  # noqa: ARG002  # Feast's signature
        """Refused: Redis holds hashes of users, and Feast builds no index over them.

        Raises:
            RequestRefused: always.
        """
        raise RequestRefused(
            f"{table.name}: this online store has no vector search",
            "Search with `qanchor-cli lookalike`, or serve from SQLite.",
        )

    retrieve_online_documents_v2 = retrieve_online_documents

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
            StoreUnavailable: Redis does not answer.
        """
        self._upsert(config, table, pack_batch(config, table, data))
        if progress:
            progress(len(data))

    async def online_write_batch_async(
        self,
        config: RepoConfig,
        table: FeatureView,
        data: Sequence[Any],
        progress: Callable[[int], Any] | None,
    ) -> None:
        """As `online_write_batch`, in a thread: the stock store's asynchronous write has no guard."""
        await asyncio.to_thread(self.online_write_batch, config, table, data, progress)

    def write_packed(self, config: RepoConfig, table: FeatureView, packed: PackedRows) -> None:
        """Write rows that are packed already; their vectors were checked as they were packed.

        Raises:
            FeaturesInvalid: a time is in the future; nothing of the batch is written.
            StoreUnavailable: Redis does not answer.
        """
        self._upsert(config, table, [packed])

    def _upsert(self, config: RepoConfig, view: FeatureView, rows: Sequence[PackedRows]) -> None:
        options = config.online_store
        limit = self.now() + timedelta(seconds=options.future_seconds)
        check_future(view, (event for packed in rows for event in packed.event_us), limit)
        name = compute_versioned_name(view, config.registry.enable_online_feature_view_versioning)
        project = config.project.encode()
        expires = str(options.key_ttl_seconds or 0)
        with _answering():
            client = self._get_client(options)
            script = client.register_script(_UPSERT)
            for some in _slices(_stored(rows, name), _ROWS_PER_PIPELINE):
                with client.pipeline(transaction=False) as pipe:
                    for key, arguments in some:
                        script(keys=[key + project], args=[expires, *arguments], client=pipe)
                    pipe.execute()

    def online_read(
        self,
        config: RepoConfig,
        table: FeatureView,
        entity_keys: Sequence[Any],
        requested_features: Sequence[str] | None = None,
    ) -> list[tuple[datetime | None, dict[str, Any] | None]]:
        """For each key its row's time and values, or (None, None) where there is none or it is too old."""
        self._judge(config, [table])
        with _answering():
            rows: list[Any] = super().online_read(
                config, table, entity_keys, None if requested_features is None else list(requested_features)
            )
        return rows

    async def online_read_async(
        self, config: RepoConfig, table: FeatureView, *rest: Any, **named: Any
    ) -> Any:
        """As `online_read`."""
        self._judge(config, [table])
        return await super().online_read_async(config, table, *rest, **named)

    def _read_features_per_fv(self, config: RepoConfig, grouped_refs: Any, *rest: Any, **named: Any) -> None:
        self._judge(config, (table for table, _ in grouped_refs))
        with _answering():
            super()._read_features_per_fv(config, grouped_refs, *rest, **named)

    async def _read_features_per_fv_async(
        self, config: RepoConfig, grouped_refs: Any, *rest: Any, **named: Any
    ) -> None:
        self._judge(config, (table for table, _ in grouped_refs))
        await super()._read_features_per_fv_async(config, grouped_refs, *rest, **named)

    def _judge(self, config: RepoConfig, views: Iterable[Any]) -> None:
        versioned = config.registry.enable_online_feature_view_versioning
        for view in views:
            name = compute_versioned_name(view, versioned)
            self._oldest[name] = oldest_served(view, self.now(), config.online_store.ttl_on_read)

    def _get_features_for_entity(
        self, values: Sequence[Any], feature_view: str, requested_features: list[str]
    ) -> tuple[datetime | None, dict[str, Any] | None]:
        row = dict(zip(requested_features, values, strict=True))
        if not row[f"_ts:{feature_view}"]:
            return None, None
        moment, features = super()._get_features_for_entity(values, feature_view, requested_features)
        if moment is None or to_microseconds(moment) < self._oldest[feature_view]:
            return None, None
        return moment, features


def _stored(rows: Sequence[PackedRows], view: str) -> Iterator[tuple[bytes, list[Any]]]:
    """Key and script arguments of each row: its times, then the fields of its hash."""
    time_field, created_field = f"_ts:{view}", f"_created:{view}"
    for packed in rows:
        columns = [(field_of(f"{view}:{name}"), values) for name, (values, _) in packed.features.items()]
        for i, (key, event) in enumerate(zip(packed.keys, packed.event_us, strict=True)):
            created = packed.created_us[i] or 0
            moment = Timestamp(seconds=event // _SECOND, nanos=event % _SECOND * 1_000).SerializeToString()
            fields = [part for field, values in columns for part in (field, values[i])]
            yield key, [event, created, time_field, moment, created_field, created, *fields]


def _slices(rows: Iterable[Any], size: int) -> Iterator[list[Any]]:
    held: list[Any] = []
    for row in rows:
        held.append(row)
        if len(held) == size:
            yield held
            held = []
    if held:
        yield held


@contextmanager
def _answering() -> Iterator[None]:
    try:
        yield
    except (RedisConnectionError, RedisTimeoutError) as error:
        raise StoreUnavailable(
            f"the online store does not answer: {error}",
            "Start Redis, or correct online_store.connection_string.",
        ) from error
