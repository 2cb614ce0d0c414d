"""The guarded online store: what Feast's own accepts, overwrites or mixes up, each fault by its letter."""

import os
import sqlite3
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from qanchor.errors import DiskFull, FeaturesInvalid, NotReady, StateError, StoreUnavailable
from qanchor.storage.feast_ext import online_store
from qanchor.storage.features import FeatureRepository
from tests.contracts.feast_worlds import GUARDED, GUARDED_REDIS
from tests.contracts.test_online_store_contract import GUARDED_KINDS, Opened, open_store, small_view
from tests.unit.storage.rows import VIEW, embedding_rows

pytestmark = [pytest.mark.integration]
_T = datetime(2026, 3, 1, 12, tzinfo=UTC)
_US = timedelta(microseconds=1)
_STOCK_COLUMNS = "entity_key, feature_name, value, value_text, vector_value, event_ts, created_ts"


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[Opened]:
    opened = open_store(GUARDED, tmp_path / "online.db", small_view())
    yield opened
    opened.store.teardown(opened.config, [opened.view], [])


@pytest.fixture(params=GUARDED_KINDS)
def each_guarded(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Opened]:
    """The guarded stores, on SQLite and on Redis."""
    opened = open_store(request.param, tmp_path / "online.db", small_view())
    yield opened
    opened.store.teardown(opened.config, [opened.view], [])


def _row(user: str, event: datetime, created: datetime | None, vector: list[float], number: int = 0) -> Any:
    from feast.protos.feast.types.Value_pb2 import FloatList, Value

    values = {"emb_x": Value(float_list_val=FloatList(val=vector)), "n_events": Value(int64_val=number)}
    return Opened.key(user), values, event, created


def _write(opened: Opened, *rows: Any) -> None:
    opened.store.online_write_batch(opened.config, opened.view, list(rows), None)


def test_a_late_row_does_not_overwrite_a_newer_one(each_guarded: Opened) -> None:
    # Fault D: the stock store keeps whatever came last.
    each_guarded.write(("a", _T, 1))
    each_guarded.write(("a", _T - _US, 2), ("b", _T, 3))
    assert each_guarded.numbers("a", "b") == [1, 3]
    each_guarded.write(("a", _T + _US, 4))
    assert each_guarded.numbers("a") == [4]


def test_of_two_rows_of_one_moment_the_later_created_stays(each_guarded: Opened) -> None:
    vector = [0.0] * 4
    _write(each_guarded, _row("a", _T, _T + 2 * _US, vector, 1))
    _write(each_guarded, _row("a", _T, _T + _US, vector, 2), _row("a", _T, None, vector, 3))
    assert each_guarded.numbers("a") == [1]
    _write(each_guarded, _row("a", _T, _T + 2 * _US, vector, 4))
    assert each_guarded.numbers("a") == [4]


def test_of_writers_beside_each_other_the_newest_row_stays(each_guarded: Opened, tmp_path: Path) -> None:
    # SQLite's stock store keeps what came last or finds the file locked; Redis's reads, then writes.
    kind = each_guarded.config.online_store.type
    writers = [open_store(kind, tmp_path / "online.db", each_guarded.view) for _ in range(3)]
    users = [f"u{i}" for i in range(40)]

    def write(number: int) -> None:
        for step in np.random.default_rng(number).permutation(60):
            if step % 3 == number:
                writers[number].write(*((user, _T + int(step) * _US, int(step)) for user in users))

    threads = [threading.Thread(target=write, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for writer in writers:
        writer.store.release()
    assert each_guarded.numbers(*users) == [59] * 40


def test_a_row_that_the_stock_redis_store_wrote_is_taken_over(tmp_path: Path) -> None:
    if not os.environ.get("QANCHOR_TEST_REDIS"):
        pytest.skip("no Redis: make services")
    stock = open_store("redis", tmp_path / "online.db", small_view())
    stock.write(("a", _T, 1))
    guarded = open_store(GUARDED_REDIS, tmp_path / "online.db", small_view())
    guarded.write(("a", _T - _US, 2))
    assert guarded.numbers("a") == [1]
    # A new model's vector of the same cut-off; the stock store would skip it.
    guarded.write(("a", _T, 3))
    assert guarded.numbers("a") == stock.numbers("a") == [3]
    guarded.store.teardown(guarded.config, [guarded.view], [])


def test_redis_holds_the_bytes_of_the_stock_store(tmp_path: Path) -> None:
    if not os.environ.get("QANCHOR_TEST_REDIS"):
        pytest.skip("no Redis: make services")
    moment = _T + timedelta(microseconds=123_456)
    found = []
    for kind in ("redis", GUARDED_REDIS):
        opened = open_store(kind, tmp_path / kind, small_view())
        _write(opened, _row("ü", moment, moment, [0.1, -2.0, 3.0, 4.0], 7))
        client = opened.store._get_client(opened.config.online_store)
        project = opened.config.project.encode()
        (key,) = list(client.scan_iter(b"*" + project))
        found.append((key.removesuffix(project), client.hgetall(key)))
        opened.store.teardown(opened.config, [opened.view], [])
    (stock_key, stock), (our_key, ours) = found
    assert our_key == stock_key
    assert ours.pop(b"_created:v") == b"%d" % (moment.timestamp() * 1_000_000)
    assert ours == stock


def test_a_redis_that_is_gone_names_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QANCHOR_TEST_REDIS", "127.0.0.1:1")
    gone = open_store(GUARDED_REDIS, tmp_path / "online.db", small_view())
    for ask in (lambda: gone.write(("a", _T, 1)), lambda: gone.numbers("a")):
        with pytest.raises(StoreUnavailable, match="Start Redis"):
            ask()


def test_a_store_that_is_locked_or_damaged_names_the_remedy(
    guarded: Opened, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(online_store, "_WAIT_SECONDS", 0.05)
    guarded.store.release()
    guarded.write(("a", _T, 1))
    with sqlite3.connect(tmp_path / "online.db") as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreUnavailable, match="locked by another writer"):
            guarded.write(("a", _T + _US, 2))
        # Readers go on.
        assert guarded.numbers("a") == [1]
    other.close()
    guarded.store.release()
    (tmp_path / "online.db").write_bytes(b"no database" * 1_000)
    with pytest.raises(StateError, match=r"damaged.*Delete online\.db"):
        guarded.numbers("a")


def test_a_full_disk_names_the_remedy_and_leaves_the_batch_out(guarded: Opened) -> None:
    guarded.write(("a", _T, 1))
    connection = guarded.store._get_conn(guarded.config)
    pages = connection.execute("PRAGMA page_count").fetchone()[0]
    connection.execute(f"PRAGMA max_page_count = {pages + 2}")
    with pytest.raises(DiskFull, match="Free some space"):
        guarded.write(*((f"u{i}", _T + _US, i) for i in range(2_000)))
    assert guarded.numbers("a", "u0", "u1999") == [1, None, None]


@pytest.mark.parametrize("bad", [[np.nan, 0, 0, 0], [np.inf, 0, 0, 0], [1.0, 0, 0], [1.0] * 5, []])
def test_an_absurd_vector_is_refused_with_its_whole_batch(each_guarded: Opened, bad: list[float]) -> None:
    # Fault K: Feast accepts NaN and times in the future.
    with pytest.raises(FeaturesInvalid, match="4 finite numbers"):
        _write(each_guarded, _row("a", _T, _T, [1.0] * 4), _row("b", _T, _T, bad))
    assert each_guarded.numbers("a", "b") == [None, None]


def test_a_field_of_another_type_takes_no_guard_away(each_guarded: Opened) -> None:
    from feast import Field
    from feast.types import Bool

    each_guarded.view.features.append(Field(name="flag", dtype=Bool))
    with pytest.raises(FeaturesInvalid, match="4 finite numbers"):
        _write(each_guarded, _row("a", _T, _T, [np.nan] * 4))
    with pytest.raises(FeaturesInvalid, match="future"):
        each_guarded.write(("a", datetime.now(UTC) + timedelta(hours=25), 2))


def test_a_row_of_the_far_future_is_refused(each_guarded: Opened) -> None:
    now = datetime.now(UTC)
    each_guarded.write(("a", now + timedelta(hours=23), 1))
    with pytest.raises(FeaturesInvalid, match="future"):
        each_guarded.write(("b", now, 2), ("a", now + timedelta(hours=25), 2))
    assert each_guarded.numbers("a", "b") == [1, None]


def test_rows_older_than_their_time_to_live_are_not_read(tmp_path: Path) -> None:
    # Fault M: Feast applies ttl offline only.
    opened = open_store(GUARDED, tmp_path / "online.db", small_view(timedelta(days=1)))
    now = datetime.now(UTC)
    opened.write(("old", now - timedelta(hours=25), 1), ("fresh", now - timedelta(hours=23), 2))
    assert opened.numbers("old", "fresh") == [None, 2]
    query = [1.0] * 4
    found = opened.store.retrieve_online_documents_v2(opened.config, opened.view, ["n_events"], query, 5)
    assert [values["n_events"].int64_val for _, _, values in found] == [2]
    opened.store.teardown(opened.config, [], [])
    lasting = open_store(GUARDED, tmp_path / "online.db", small_view(timedelta(days=1)), ttl_on_read=False)
    lasting.write(("old", now - timedelta(hours=25), 1))
    assert lasting.numbers("old") == [1]
    lasting.store.teardown(lasting.config, [], [])


@pytest.fixture(params=["UTC", "Pacific/Auckland", "America/St_Johns"])
def zone(request: pytest.FixtureRequest, set_zone: Callable[[str], None]) -> None:
    set_zone(request.param)


@pytest.mark.usefixtures("zone")
def test_times_are_utc_to_the_microsecond_in_any_zone(guarded: Opened, tmp_path: Path) -> None:
    # Fault I: the stock store keeps whole seconds in the zone of the process.
    moment = _T + timedelta(microseconds=123_456)
    guarded.write(("a", moment, 1))
    assert guarded.read("a")[0][0] == moment
    with sqlite3.connect(tmp_path / "online.db") as connection:
        stored = connection.execute("SELECT DISTINCT event_ts, event_us FROM p_v").fetchall()
    connection.close()
    assert stored == [(int(_T.timestamp()), int(_T.timestamp()) * 1_000_000 + 123_456)]


def test_a_time_without_a_zone_is_utc(each_guarded: Opened) -> None:
    each_guarded.write(("a", _T.replace(tzinfo=None), 1))
    assert each_guarded.read("a")[0][0] == _T


def test_a_table_that_the_stock_store_made_is_taken_over(tmp_path: Path) -> None:
    stock = open_store("sqlite", tmp_path / "online.db", small_view())
    stock.write(("a", _T, 1))
    stock.store._conn.close()
    guarded = open_store(GUARDED, tmp_path / "online.db", small_view())
    guarded.write(("a", _T - timedelta(seconds=1), 2))
    assert guarded.numbers("a") == [1]
    guarded.store.teardown(guarded.config, [], [])


def test_more_keys_than_a_query_may_have_variables(guarded: Opened) -> None:
    users = [f"u{i}" for i in range(12_001)]
    guarded.write(*((user, _T, i) for i, user in enumerate(users)))
    assert guarded.numbers(*users) == list(range(12_001))


def test_a_view_that_was_never_applied_names_the_remedy(guarded: Opened) -> None:
    guarded.store.update(guarded.config, [guarded.view], [], [], [], partial=False)
    with pytest.raises(NotReady, match="feast apply"):
        guarded.numbers("a")
    with pytest.raises(NotReady, match="feast apply"):
        guarded.write(("a", _T, 1))


def _unit(rng: np.random.Generator, rows: int) -> Any:
    vectors = rng.normal(size=(rows, 128)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_each_neighbour_comes_with_its_own_distance_and_features(features: FeatureRepository) -> None:
    # Fault A: Feast returns keys in the store's order, distances and features in that of sorted keys.
    rng = np.random.default_rng(3)
    users = [f"n{i}" for i in rng.permutation(200)]
    vectors = _unit(rng, 200)
    rows = embedding_rows([(user, _T, _T) for user in users], vectors, scenario="promo")
    features.write_part("user_emb_promo", rows, "neighbours")
    features.materialize(["user_emb_promo"], _T)
    query = _unit(rng, 1)[0]
    answer = features.store.retrieve_online_documents_v2(
        features=["user_emb_promo:n_events"], top_k=10, query=query.tolist()
    ).to_dict()
    expected = dict(zip(users, 1.0 - vectors @ query, strict=True))
    assert len(answer["user_id"]) == 10
    for user, distance, number in zip(answer["user_id"], answer["distance"], answer["n_events"], strict=True):
        assert distance == pytest.approx(expected[user], abs=1e-6)
        assert users[number] == user
    assert set(answer["user_id"]) == set(sorted(expected, key=expected.__getitem__)[:10])


@pytest.mark.parametrize(("metric", "nearest"), [("COSINE", "a"), ("L2", "c"), ("INNER_PRODUCT", "b")])
def test_neighbours_follow_the_metric(guarded: Opened, metric: str, nearest: str) -> None:
    rows = {"a": [1.0, 1.0, 0.0, 0.0], "b": [9.0, 0.0, 0.0, 0.0], "c": [0.2, 0.15, 0.0, 0.0]}
    _write(guarded, *(_row(user, _T, _T, vector) for user, vector in rows.items()))
    query = [0.2, 0.2, 0.0, 0.0]
    found = guarded.store.retrieve_online_documents_v2(guarded.config, guarded.view, [], query, 1, metric)
    assert [entity.entity_values[0].string_val for _, entity, _ in found] == [nearest]


def test_an_empty_view_has_no_neighbours_and_a_wrong_query_is_refused(guarded: Opened) -> None:
    search = guarded.store.retrieve_online_documents_v2
    assert search(guarded.config, guarded.view, [], [1.0] * 4, 3) == []
    with pytest.raises(FeaturesInvalid, match="dimensions"):
        search(guarded.config, guarded.view, [], [1.0] * 3, 3)
    with pytest.raises(FeaturesInvalid, match="by vector alone"):
        search(guarded.config, guarded.view, [], None, 3, None, "text")


@pytest.mark.usefixtures("utc_zone")
def test_packed_rows_are_the_bytes_of_the_stock_store(features: FeatureRepository, tmp_path: Path) -> None:
    from feast.utils import _convert_arrow_to_proto

    from qanchor.storage.feast_ext.packing import pack_rows

    rng = np.random.default_rng(5)
    rows = embedding_rows([(f"ü{i}", _T + i * 7 * _US, _T + i * _US) for i in range(50)], _unit(rng, 50))
    # Of a null time the stock store makes the year 1677; that is tested apart.
    place = rows.column_names.index("last_event_ts")
    rows = rows.set_column(place, "last_event_ts", rows["event_timestamp"])
    activity = pa.table(
        {
            "user_id": ["a", "b", "c"],
            **{
                name: pa.array([0.0, None, 1e-300], pa.float64())
                for name in features.workspace.activity_columns
            },
            "event_timestamp": pa.array([_T] * 3, pa.timestamp("us", "UTC")),
            "created": pa.array([_T] * 3, pa.timestamp("us", "UTC")),
        }
    )
    profile = pa.table(
        {
            "user_id": ["a", "b"],
            "prof_tier": pa.array(["gold", None]),
            "prof_limit": pa.array([None, 2.5]),
            "event_timestamp": pa.array([_T] * 2, pa.timestamp("us", "UTC")),
            "created": pa.array([_T] * 2, pa.timestamp("us", "UTC")),
        }
    )
    for name, table in ((VIEW, rows), ("user_activity", activity), ("user_profile", profile)):
        view = features.store.get_feature_view(name)
        join_keys = {entity.name: entity.dtype.to_value_type() for entity in view.entity_columns}
        stock = open_store("sqlite", tmp_path / "stock.db", view)
        protos = _convert_arrow_to_proto(table.combine_chunks(), view, join_keys)
        stock.store.online_write_batch(stock.config, view, protos, None)
        ours = open_store(GUARDED, tmp_path / "ours.db", view)
        ours.store.write_packed(ours.config, view, pack_rows(table, view))
        assert _dump(tmp_path / "ours.db", name) == _dump(tmp_path / "stock.db", name)
        stock.store._conn.close()
        ours.store.release()


def test_a_null_time_stays_null(features: FeatureRepository) -> None:
    # The stock conversion stores NaT as a number of the year 1677.
    features.write_part(
        "user_emb_promo", embedding_rows([("a", _T, _T), ("z", _T, _T)], scenario="promo"), "z"
    )
    features.materialize(["user_emb_promo"], _T)
    name = "user_emb_promo__last_event_ts"
    assert features.online(["z"], [name.replace("__", ":")], at=_T)[name].to_pylist() == [None]


def _dump(path: Path, view: str) -> list[Any]:
    connection = sqlite3.connect(path)
    rows = connection.execute(f"SELECT {_STOCK_COLUMNS} FROM p_{view} ORDER BY 1, 2").fetchall()
    connection.close()
    assert rows
    return rows


def test_other_online_stores_get_every_chunk_through_feasts_own_engine(
    features: FeatureRepository, tmp_path: Path
) -> None:
    # Fault C, in the production profile: the engine hands over to Feast's local one.
    from feast.infra.offline_stores.duckdb import DuckDBOfflineStore

    from qanchor.storage.feast_ext.engine import ArrowComputeEngine

    users = [f"s{i:03d}" for i in range(40)]
    for part in range(4):
        rows = embedding_rows([(user, _T, _T) for user in users[part::4]], scenario="money")
        features.write_part("user_emb_money", rows, f"s{part}")
    view = features.store.get_feature_view("user_emb_money")
    stock = open_store("sqlite", tmp_path / "stock.db", view)
    stock.config.offline_config = {"type": "duckdb"}
    stock.config.materialization_config.online_write_batch_size = 7
    engine = ArrowComputeEngine(
        repo_config=stock.config, offline_store=DuckDBOfflineStore(), online_store=stock.store
    )
    from feast.infra.common.materialization_job import MaterializationTask

    task = MaterializationTask("qanchor", view, _T - timedelta(days=1), _T)
    (job,) = engine.materialize(features.store.registry, task)
    features.remove_parts("user_emb_money", set())
    assert job.error() is None
    assert stock.numbers(*users).count(None) == 0
    stock.store._conn.close()
