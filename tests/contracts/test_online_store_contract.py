"""What every online store behind FeatureRepository must do; Feast's own passes it too."""

import os
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.contracts.feast_worlds import GUARDED, GUARDED_REDIS

pytestmark = [pytest.mark.integration]
# On the stock store a time survives only in a process whose zone is UTC.
_T = datetime(2026, 3, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Opened:
    """A store with one view, and the configuration that Feast hands to each call."""

    store: Any
    config: Any
    view: Any

    def write(self, *rows: tuple[str, datetime, int]) -> None:
        """Write (user, event time, number) rows; the vector of a row is full of its number."""
        from feast.protos.feast.types.Value_pb2 import FloatList, Value

        data = [
            (
                self.key(user),
                {
                    "emb_x": Value(float_list_val=FloatList(val=[float(number)] * 4)),
                    "n_events": Value(int64_val=number),
                },
                moment,
                moment,
            )
            for user, moment, number in rows
        ]
        self.store.online_write_batch(self.config, self.view, data, None)

    def read(self, *users: str, only: list[str] | None = None) -> list[Any]:
        """Rows of these users."""
        rows: list[Any] = self.store.online_read(self.config, self.view, [self.key(u) for u in users], only)
        return rows

    def numbers(self, *users: str) -> list[int | None]:
        """n_events of these users, None where there is no row."""
        return [values["n_events"].int64_val if values else None for _, values in self.read(*users)]

    @staticmethod
    def key(user: str) -> Any:
        """The entity key of a user."""
        from feast.protos.feast.types.EntityKey_pb2 import EntityKey
        from feast.protos.feast.types.Value_pb2 import Value

        return EntityKey(join_keys=["user_id"], entity_values=[Value(string_val=user)])


def small_view(ttl: timedelta = timedelta(0), name: str = "v") -> Any:
    """A Feast view with a vector of width 4 and a number."""
    from feast import Entity, FeatureView, Field, FileSource, ValueType
    from feast.types import Array, Float32, Int64, String

    fields = [
        Field(name="user_id", dtype=String),
        Field(name="emb_x", dtype=Array(Float32), vector_index=True, vector_length=4),
        Field(name="n_events", dtype=Int64),
    ]
    source = FileSource(
        path="/nowhere", timestamp_field="event_timestamp", created_timestamp_column="created"
    )
    user = Entity(name="user", join_keys=["user_id"], value_type=ValueType.STRING)
    return FeatureView(name=name, entities=[user], schema=fields, source=source, ttl=ttl)


def open_store(kind: str, path: Path, view: Any, **options: Any) -> Opened:
    """A store of one of the kinds, its table made.

    Args:
        kind: Feast's `type` of an online store.
        path: SQLite's file; Redis is told apart by the project, which is named after it.
        view: its only view.
        **options: more of the configuration.
    """
    from feast import RepoConfig
    from feast.infra.online_stores.helpers import get_online_store_from_config

    place: dict[str, Any] = {"path": str(path)}
    if "redis" in kind:
        place = {"connection_string": os.environ["QANCHOR_TEST_REDIS"]}
    config = RepoConfig(
        project="p" if "redis" not in kind else f"p{zlib.crc32(str(path).encode())}",
        provider="local",
        registry={"registry_type": "sql", "path": "sqlite://"},
        online_store={"type": kind, **place, **options},
        entity_key_serialization_version=3,
    )
    opened = Opened(get_online_store_from_config(config.online_store), config, view)
    opened.store.update(config, [], [view], [], [], partial=False)
    return opened


needs_redis = pytest.mark.skipif(not os.environ.get("QANCHOR_TEST_REDIS"), reason="no Redis: make services")
GUARDED_KINDS = [
    pytest.param(GUARDED, id="guarded SQLite"),
    pytest.param(GUARDED_REDIS, id="guarded Redis", marks=needs_redis),
]
KINDS = [pytest.param("sqlite", id="stock SQLite"), *GUARDED_KINDS]


@pytest.fixture(params=KINDS)
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Opened]:
    """A store of each kind."""
    made = open_store(request.param, tmp_path / "online.db", small_view())
    yield made
    made.store.teardown(made.config, [made.view], [])


def test_what_was_written_is_read(opened: Opened) -> None:
    opened.write(("a", _T, 1))
    ((_, values),) = opened.read("a")
    assert values["n_events"].int64_val == 1
    assert list(values["emb_x"].float_list_val.val) == [1.0] * 4


def test_rows_come_in_the_order_asked_for(opened: Opened) -> None:
    opened.write(("a", _T, 1), ("b", _T, 2), ("c", _T, 3))
    assert opened.numbers("c", "nobody", "a", "b", "a") == [3, None, 1, 2, 1]


def test_a_newer_row_replaces_an_older_one(opened: Opened) -> None:
    opened.write(("a", _T, 1))
    opened.write(("a", _T + timedelta(seconds=1), 2))
    assert opened.numbers("a") == [2]


def test_writing_the_same_row_again_changes_nothing(opened: Opened) -> None:
    for _ in range(2):
        opened.write(("a", _T, 1))
    assert opened.numbers("a") == [1]


def test_a_user_id_of_any_letters_is_a_key(opened: Opened) -> None:
    users = ["ü-1", "日本", "a'b\"c", "x" * 300, "a", "aa"]
    opened.write(*((user, _T, i) for i, user in enumerate(users)))
    assert opened.numbers(*users) == list(range(len(users)))


def test_applying_again_keeps_rows_and_deleting_the_view_drops_them(opened: Opened) -> None:
    opened.write(("a", _T, 1))
    opened.store.update(opened.config, [], [opened.view], [], [], partial=False)
    assert opened.numbers("a") == [1]
    opened.store.update(opened.config, [opened.view], [], [], [], partial=False)
    opened.store.update(opened.config, [], [opened.view], [], [], partial=False)
    assert opened.numbers("a") == [None]


def test_a_reader_gets_the_features_that_it_asks_for(opened: Opened) -> None:
    opened.write(("a", _T, 1))
    ((moment, values),) = opened.read("a", only=["n_events"])
    # The stock store hands over all of them, and Feast picks.
    assert (moment, values["n_events"].int64_val) == (_T, 1)


def test_two_views_of_one_user_are_kept_apart(opened: Opened) -> None:
    other = Opened(opened.store, opened.config, small_view(name="w"))
    opened.store.update(opened.config, [], [opened.view, other.view], [], [], partial=False)
    opened.write(("a", _T, 1))
    other.write(("a", _T - timedelta(days=1), 2))
    assert (opened.numbers("a"), other.numbers("a")) == ([1], [2])
    opened.store.update(opened.config, [other.view], [opened.view], [], [], partial=False)
    assert opened.numbers("a") == [1]


def test_after_teardown_nothing_is_left(opened: Opened, tmp_path: Path) -> None:
    opened.write(("a", _T, 1))
    opened.store.teardown(opened.config, [opened.view], [])
    again = open_store(opened.config.online_store.type, tmp_path / "online.db", opened.view)
    found = again.numbers("a")
    again.store.teardown(again.config, [again.view], [])
    assert found == [None]


def test_progress_counts_the_rows(opened: Opened) -> None:
    counted: list[int] = []
    opened.store.online_write_batch(opened.config, opened.view, [], counted.append)
    assert sum(counted) == 0
