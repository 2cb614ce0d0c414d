"""What every compute engine must bring into the online store; Feast's own local engine does so too."""

import os
import sqlite3
import subprocess
import sys
import zlib
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from qanchor.errors import FeaturesInvalid
from qanchor.storage.parts import embedding_schema
from tests.contracts.feast_worlds import (
    ARROW,
    GUARDED,
    GUARDED_REDIS,
    PART_FILES,
    FeastWorld,
    T,
    foreign_objects,
    open_world,
)
from tests.contracts.test_online_store_contract import needs_redis
from tests.unit.storage.rows import VIEW, embedding_rows

pytestmark = [pytest.mark.integration]
_DAY = timedelta(days=1)
_VIEWS = (VIEW, "user_activity", "user_profile")
_STOCK_COLUMNS = "entity_key, feature_name, value, value_text, vector_value, event_ts, created_ts"


def _online(kind: str, folder: Path) -> dict[str, Any]:
    if kind == "redis":
        address = os.environ["QANCHOR_TEST_REDIS"]
        return {"type": GUARDED_REDIS, "connection_string": address, "ttl_on_read": False}
    if kind == "plug-ins":
        return {"type": GUARDED, "path": str(folder / "online.db"), "ttl_on_read": False}
    return {"path": str(folder / "online.db")}


def open_kind(kind: str, folder: Path) -> FeastWorld:
    """A store of one kind: Feast's own parts, the plug-ins, or the plug-ins on Redis."""
    if kind == "stock":
        return open_world(folder, {"type": "duckdb"}, _online(kind, folder), "local")
    project = f"e{zlib.crc32(str(folder).encode())}" if kind == "redis" else "p"
    return open_world(folder, {"type": PART_FILES}, _online(kind, folder), ARROW, project)


@pytest.fixture(scope="module")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, FeastWorld]]:
    """One store of each kind; applying one takes a second."""
    kinds = ["stock", "plug-ins", *(["redis"] if os.environ.get("QANCHOR_TEST_REDIS") else [])]
    made = {kind: open_kind(kind, tmp_path_factory.mktemp(kind)) for kind in kinds}
    yield made
    for world in made.values():
        world.store.teardown()


def _forget(world: FeastWorld) -> None:
    """Remove all rows, offline and online."""
    world.empty()
    online, views = world.store._get_provider().online_store, world.store.list_feature_views()
    online.update(world.store.config, views, [], [], [], partial=False)
    online.update(world.store.config, [], views, [], [], partial=False)


@pytest.fixture(params=["stock", "plug-ins", pytest.param("redis", marks=needs_redis)])
def world(request: pytest.FixtureRequest, worlds: dict[str, FeastWorld]) -> Iterator[FeastWorld]:
    """A store of each kind, without rows."""
    yield worlds[request.param]
    _forget(worlds[request.param])


@pytest.fixture
def ours(worlds: dict[str, FeastWorld]) -> Iterator[FeastWorld]:
    """The plug-ins alone."""
    yield worlds["plug-ins"]
    _forget(worlds["plug-ins"])


def _materialize(world: FeastWorld, start: datetime, end: datetime, *views: str) -> None:
    world.store.materialize(start, end, feature_views=list(views or [VIEW]))


def _served(world: FeastWorld, *users: str, view: str = VIEW) -> list[int | None]:
    rows = {"user_id": list(users)}
    numbers: list[int | None] = world.store.get_online_features([f"{view}:n_events"], rows).to_dict()[
        "n_events"
    ]
    return numbers


def test_the_newest_row_of_each_user_in_the_span_is_served(world: FeastWorld) -> None:
    users = [("a", 0), ("a", 1), ("b", 0), ("a", 3), ("c", -20)]
    rows = [(user, T + day * _DAY, T + day * _DAY) for user, day in users]
    world.write(VIEW, embedding_rows(rows[:3]), "p0")
    world.write(VIEW, embedding_rows(rows).slice(3), "p1")
    _materialize(world, T - _DAY, T + 2 * _DAY)
    assert _served(world, "b", "a", "c", "nobody") == [2, 1, None, None]


def test_of_two_rows_of_one_moment_the_later_created_is_served(world: FeastWorld) -> None:
    world.write(VIEW, embedding_rows([("a", T, T + 2 * _DAY), ("a", T, T + _DAY)]))
    _materialize(world, T - _DAY, T + _DAY)
    assert _served(world, "a") == [0]


def test_an_empty_span_and_a_view_without_rows_succeed_and_change_nothing(world: FeastWorld) -> None:
    _materialize(world, T - _DAY, T, *_VIEWS)
    world.write(VIEW, embedding_rows([("a", T, T)]))
    _materialize(world, T - _DAY, T)
    _materialize(world, T + _DAY, T + 2 * _DAY)
    assert _served(world, "a") == [0]


def test_more_rows_than_a_batch_all_arrive(world: FeastWorld) -> None:
    # Fault C: without a batch size Feast's engine keeps the first chunk alone.
    users = [f"u{i:05d}" for i in np.random.default_rng(0).permutation(11_000)]
    vectors = np.zeros((len(users), 128), np.float32)
    world.write(VIEW, embedding_rows([(user, T, T) for user in users], list(vectors)))
    _materialize(world, T - _DAY, T)
    assert _served(world, *users) == list(range(11_000))


def test_materializing_again_changes_nothing(world: FeastWorld) -> None:
    world.write(VIEW, embedding_rows([("a", T, T), ("b", T, T)]))
    for _ in range(2):
        _materialize(world, T - _DAY, T)
        assert _served(world, "a", "b") == [0, 1]


def test_an_incremental_run_begins_where_the_last_one_ended(world: FeastWorld) -> None:
    # Later than all that the other tests materialize, for Feast keeps in mind how far each view is.
    start = T + 100 * _DAY
    world.write(VIEW, embedding_rows([("a", start, start), ("b", start, start)]), "p0")
    _materialize(world, start - _DAY, start)
    news = start + _DAY
    world.write(
        VIEW, embedding_rows([("x", news, news), ("x", news, news), ("a", news, news)]).slice(2), "p1"
    )
    for day in (2, 3):
        world.store.materialize_incremental(start + day * _DAY, feature_views=[VIEW])
        assert _served(world, "a", "b") == [2, 1]


def test_several_views_are_materialized_in_one_run(world: FeastWorld) -> None:
    world.write(VIEW, embedding_rows([("a", T, T)]))
    world.write("user_emb_money", embedding_rows([("x", T, T), ("a", T, T)], scenario="money"))
    _materialize(world, T - _DAY, T, VIEW, "user_emb_money")
    assert _served(world, "a") == [0]
    assert _served(world, "a", view="user_emb_money") == [1]


class _PulledOut(Exception):
    """The store fails in the middle."""


def _fail_from_second_batch_on(store: Any, patch: pytest.MonkeyPatch) -> None:
    method = "write_packed" if hasattr(store, "write_packed") else "online_write_batch"
    write, batches = getattr(store, method), iter(range(100))

    def failing(*arguments: Any, **named: Any) -> Any:
        if next(batches) > 0:
            raise _PulledOut
        return write(*arguments, **named)

    patch.setattr(store, method, failing)


def test_a_run_that_fails_in_the_middle_says_so_and_the_next_one_ends_it(
    world: FeastWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    provider = world.store._get_provider()
    monkeypatch.setattr(world.store.config.materialization_config, "online_write_batch_size", 10)
    monkeypatch.setattr(provider.batch_engine, "_batch_rows", 10, raising=False)
    users = [f"u{i:02d}" for i in range(40)]
    world.write(VIEW, embedding_rows([(user, T, T) for user in users]))
    with pytest.MonkeyPatch.context() as patch:
        _fail_from_second_batch_on(provider.online_store, patch)
        with pytest.raises(_PulledOut):
            _materialize(world, T - _DAY, T)
    assert 0 < sum(number is not None for number in _served(world, *users)) < 40
    _materialize(world, T - _DAY, T)
    assert _served(world, *users) == list(range(40))


_KILLED = """
import os, sys
from datetime import timedelta
from pathlib import Path
from tests.contracts.feast_worlds import T
from tests.contracts.test_compute_engine_contract import open_kind
world = open_kind("plug-ins", Path(sys.argv[1]))
provider = world.store._get_provider()
provider.batch_engine._batch_rows = 10
connection = provider.online_store._get_conn(world.store.config)
# In the third batch's transaction, half of it written.
rows = iter(range(10**6))
connection.create_function("counted", 0, lambda: os.kill(os.getpid(), 9) if next(rows) > 99 else 0)
connection.execute("CREATE TEMP TRIGGER killing AFTER INSERT ON p_user_emb_fraud BEGIN SELECT counted(); END")
world.store.materialize(T - timedelta(days=1), T, feature_views=["user_emb_fraud"])
"""


@pytest.mark.slow
def test_a_run_that_is_killed_in_a_batch_leaves_whole_rows_and_the_next_one_ends_it(ours: FeastWorld) -> None:
    users = [f"u{i:02d}" for i in range(60)]
    ours.write(VIEW, embedding_rows([(user, T, T) for user in users]))
    ours.store._get_provider().online_store.release()
    killed = subprocess.run(
        [sys.executable, "-c", _KILLED, str(ours.folder)], cwd=Path(__file__).parents[2], check=False
    )
    assert killed.returncode == -9
    assert [number is not None for number in _served(ours, *users)] == [True] * 20 + [False] * 40
    _materialize(ours, T - _DAY, T)
    assert _served(ours, *users) == list(range(60))


def _random_rows(world: FeastWorld) -> None:
    random = np.random.default_rng(4)
    events = [T + timedelta(microseconds=int(us)) for us in random.integers(0, 10**12, 300)]
    users = [f"ü{i}" for i in random.integers(0, 150, 300)]
    vectors = random.standard_normal((300, 128)).astype(np.float32)
    rows = embedding_rows(
        [(user, event, event + _DAY) for user, event in zip(users, events, strict=True)], list(vectors)
    )
    place = rows.column_names.index("last_event_ts")
    world.write(VIEW, rows.set_column(place, "last_event_ts", rows["event_timestamp"]))
    numbers = pa.array([0.0, None, -1e-300, float("nan"), 1e18] * 10)
    activity = embedding_schema("fraud").empty_table().schema
    times = {name: pa.array([T] * 50, activity.field(name).type) for name in ("event_timestamp", "created")}
    names = [f.name for f in world.store.get_feature_view("user_activity").features]
    keys = pa.array([f"u{i}" for i in range(50)])
    world.write("user_activity", pa.table({"user_id": keys, **dict.fromkeys(names, numbers), **times}))
    profile = {"prof_tier": pa.array(["gold", None, "", "ü", "gold"] * 10), "prof_limit": numbers}
    world.write("user_profile", pa.table({"user_id": keys, **profile, **times}))


# In any other zone the stock store keeps other seconds (fault I).
@pytest.mark.usefixtures("utc_zone")
def test_what_is_stored_is_what_feast_stores_byte_for_byte(tmp_path: Path) -> None:
    dumps = []
    for kind in ("stock", "plug-ins"):
        world = open_kind(kind, tmp_path / kind)
        _random_rows(world)
        _materialize(world, T - _DAY, T + 30 * _DAY, *_VIEWS)
        with sqlite3.connect(world.folder / "online.db") as connection:
            dumps.append(
                {
                    view: connection.execute(
                        f"SELECT {_STOCK_COLUMNS} FROM p_{view} ORDER BY 1, 2"
                    ).fetchall()
                    for view in _VIEWS
                }
            )
        connection.close()
        world.store.teardown()
    assert all(len(rows) > 40 for rows in dumps[1].values())
    assert dumps[1] == dumps[0]


def test_rows_are_counted_and_refused_ones_stop_the_run(
    ours: FeastWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Fault B: an engine that reports success says nothing of rows. Fault K: NaN and times in the future.
    engine = ours.store._get_provider().batch_engine
    monkeypatch.setattr(engine, "written", {})
    ours.write(VIEW, embedding_rows([("a", T, T), ("a", T + _DAY, T), ("b", T, T)]))
    _materialize(ours, T - _DAY, T + _DAY)
    assert engine.written == {VIEW: 2}
    vectors = [np.ones(128, np.float32), np.full(128, np.nan, np.float32)]
    ours.write(VIEW, embedding_rows([("c", T, T), ("d", T, T)], vectors), "nan")
    with pytest.raises(FeaturesInvalid, match="NaN"):
        _materialize(ours, T - _DAY, T + _DAY)
    ours.write(VIEW, embedding_rows([("c", T + 9_999 * _DAY, T)]), "nan")
    with pytest.raises(FeaturesInvalid, match="future"):
        _materialize(ours, T - _DAY, T + 10_000 * _DAY)
    assert _served(ours, "a", "b", "c", "d") == [1, 2, None, None]


def test_a_view_that_is_not_served_online_is_not_written(tmp_path: Path) -> None:
    ours = open_kind("plug-ins", tmp_path)
    view = ours.store.get_feature_view(VIEW)
    view.online = False
    ours.store.apply([view])
    ours.write(VIEW, embedding_rows([("a", T, T)]))
    with pytest.raises(ValueError, match="online"):
        _materialize(ours, T - _DAY, T)
    ours.store.teardown()


def test_views_of_other_sources_are_materialized_by_feasts_own_engine(ours: FeastWorld) -> None:
    ours.store.apply(foreign_objects(ours.folder / "shops.parquet"))
    _materialize(ours, T - _DAY, T + 2 * _DAY, "shops")
    served = ours.store.get_online_features(["shops:sales"], {"shop_id": [7, 8]}).to_dict()
    assert served["sales"] == [2, None]
