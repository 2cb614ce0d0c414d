"""What every offline store must join; Feast's own DuckDB store does so too."""

import inspect
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from operator import add
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from qanchor.errors import FeaturesInvalid
from qanchor.storage.parts import write_part
from tests.contracts.feast_worlds import ARROW, PART_FILES, FeastWorld, T, foreign_objects, open_world
from tests.unit.storage.rows import VIEW, embedding_rows

pytestmark = [pytest.mark.integration]
_DAY, _US = timedelta(days=1), timedelta(microseconds=1)
_MONEY = "user_emb_money"
_N = f"{VIEW}__n_events"


@pytest.fixture(scope="module")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, FeastWorld]]:
    """One store of each kind."""
    folder = tmp_path_factory.mktemp("offline")
    made = {
        "stock": open_world(
            folder / "stock", {"type": "duckdb"}, {"path": str(folder / "stock.db")}, "local"
        ),
        "part files": open_world(
            folder / "ours", {"type": PART_FILES}, {"path": str(folder / "ours.db")}, ARROW
        ),
    }
    yield made
    for world in made.values():
        world.store.registry.teardown()


@pytest.fixture(params=["stock", "part files"])
def world(request: pytest.FixtureRequest, worlds: dict[str, FeastWorld]) -> Iterator[FeastWorld]:
    """A store of each kind, without rows."""
    chosen = worlds[request.param]
    yield chosen
    chosen.empty()


@pytest.fixture
def ours(worlds: dict[str, FeastWorld]) -> Iterator[FeastWorld]:
    """The part files alone, for what the stock store cannot do."""
    yield worlds["part files"]
    worlds["part files"].empty()


def _labels(rows: Sequence[tuple[str | None, Any]]) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "user_id": [user for user, _ in rows],
            "event_timestamp": [moment for _, moment in rows],
            "label": range(len(rows)),
        }
    )


def _join(
    world: FeastWorld, entity_df: Any, features: Any = (f"{VIEW}:n_events",), **options: Any
) -> pa.Table:
    refs = features if not isinstance(features, tuple) else list(features)
    asked = {"full_feature_names": True, "filter_by_created_timestamp": True, **options}
    frame: pa.Table = world.store.get_historical_features(entity_df, refs, **asked).to_arrow()
    return frame.sort_by("label")


def _numbers(world: FeastWorld, *labels: tuple[str | None, Any]) -> list[int | None]:
    numbers: list[int | None] = _join(world, _labels(labels))[_N].to_pylist()
    return numbers


def test_the_newest_row_up_to_the_label_is_joined(world: FeastWorld) -> None:
    world.write(VIEW, embedding_rows([("a", T, T), ("a", T + _DAY, T + _DAY), ("b", T, T)]))
    found = _numbers(world, ("a", T - _US), ("a", T), ("a", T + _DAY - _US), ("a", T + _DAY), ("b", T + _DAY))
    assert found == [None, 0, 0, 1, 2]


def test_rows_of_many_parts_are_one_history(world: FeastWorld) -> None:
    for part in range(3):
        moment = T + part * timedelta(hours=1)
        world.write(VIEW, embedding_rows([("x", T, T)] * part + [("a", moment, moment)]), f"p{part}")
    assert _numbers(world, *(("a", T + hours * timedelta(hours=1)) for hours in range(4))) == [0, 1, 2, 2]


def test_time_to_live_includes_its_last_microsecond(world: FeastWorld) -> None:
    world.write(VIEW, embedding_rows([("a", T, T)]))
    assert _numbers(world, ("a", T + 2 * _DAY), ("a", T + 2 * _DAY + _US)) == [0, None]


def test_of_two_rows_of_one_moment_the_later_created_wins(world: FeastWorld) -> None:
    hour = timedelta(hours=1)
    world.write(VIEW, embedding_rows([("a", T, T + 2 * hour), ("a", T, T + hour), ("a", T, T + 3 * hour)]))
    assert _numbers(world, *(("a", T + hours * hour) for hours in range(5))) == [None, 1, 0, 2, 2]


def test_a_row_that_was_created_after_the_label_does_not_leak(world: FeastWorld) -> None:
    # Fault K: without the filter a backfill leaks into training frames.
    world.write(VIEW, embedding_rows([("a", T, T), ("a", T + _DAY, T + 3 * _DAY)]))
    assert _numbers(world, ("a", T + _DAY), ("a", T + 3 * _DAY)) == [0, 1]


def test_every_label_comes_back_once_with_its_own_columns(world: FeastWorld) -> None:
    # Fault E: the dask store drops labels whose user has no past.
    world.write(VIEW, embedding_rows([("a", T, T), ("b", T, T)]))
    users = ["b", "nobody", "a", "b", "a", "a"]
    frame = _join(world, _labels([(user, T + _DAY) for user in users]).sample(frac=1, random_state=3))
    assert frame["label"].to_pylist() == list(range(6))
    assert frame["user_id"].to_pylist() == users
    assert frame[_N].to_pylist() == [1, None, 0, 1, 0, 0]


def test_several_views_are_joined_each_by_its_own_time_to_live(world: FeastWorld) -> None:
    world.write(VIEW, embedding_rows([("a", T, T)]))
    world.write(_MONEY, embedding_rows([("a", T, T), ("b", T, T)], scenario="money"))
    refs = (f"{VIEW}:n_events", f"{_MONEY}:n_events", f"{_MONEY}:emb_money", "user_profile:prof_tier")
    frame = _join(world, _labels([("a", T + _DAY), ("b", T + _DAY), ("a", T + 9 * _DAY)]), refs)
    assert frame[_N].to_pylist() == [0, None, None]
    assert frame[f"{_MONEY}__n_events"].to_pylist() == [0, 1, 0]
    assert frame[f"{_MONEY}__emb_money"].to_pylist() == [[0.0] * 128, [1.0] * 128, [0.0] * 128]
    assert frame["user_profile__prof_tier"].null_count == 3


def test_columns_have_the_types_of_the_view(world: FeastWorld) -> None:
    world.write(VIEW, embedding_rows([("a", T, T)]))
    refs = tuple(f"{VIEW}:{name}" for name in ("emb_fraud", "model_version", "n_events", "last_event_ts"))
    frame = _join(world, _labels([("a", T), ("b", T)]), refs, full_feature_names=False)
    assert frame.column_names == ["user_id", "event_timestamp", "label", *(ref.split(":")[1] for ref in refs)]
    types = {name: frame.schema.field(name).type for name in frame.column_names[3:]}
    assert types["emb_fraud"].value_type == pa.float32()
    assert pa.types.is_list(types["emb_fraud"])
    assert (types["model_version"], types["n_events"]) == (pa.string(), pa.int64())
    assert frame["last_event_ts"].to_pylist() == [T, None]
    assert frame.to_pandas()["emb_fraud"][0].dtype == np.float32


def test_moments_of_any_zone_and_of_text_are_the_same_moments(world: FeastWorld) -> None:
    world.write(VIEW, embedding_rows([("a", T, T)]))
    zoned = pd.Series(pd.to_datetime([T - _US, T], utc=True)).dt.tz_convert("Asia/Kolkata")
    texts = ["2026-02-28T23:59:59.999999Z", "2026-03-01T00:00:00.000000Z"]
    naive = [datetime(2026, 2, 28, 23, 59, 59, 999999), datetime(2026, 3, 1)]
    for moments in (zoned, texts, naive):
        frame = _labels([("a", None), ("a", None)]).assign(event_timestamp=moments)
        assert _join(world, frame)[_N].to_pylist() == [None, 0]


def test_the_moment_may_stand_in_another_column(world: FeastWorld) -> None:
    world.write(VIEW, embedding_rows([("a", T, T)]))
    frame = _labels([("a", pd.Timestamp(T)), ("b", pd.Timestamp(T))])
    assert _join(world, frame.rename(columns={"event_timestamp": "asked_at"}))[_N].to_pylist() == [0, None]


def test_a_view_may_be_keyed_by_another_column(world: FeastWorld) -> None:
    from feast import FeatureService

    world.write(VIEW, embedding_rows([("a", T, T), ("b", T, T)]))
    view = world.store.get_feature_view(VIEW)
    friend = view.with_name("friend").with_join_key_map({"user_id": "friend_id"})[["n_events"]]
    service = FeatureService(name="friends", features=[friend])
    world.store.apply([service])
    frame = _labels([("a", T), ("b", T)]).assign(friend_id=["b", "nobody"])
    assert _join(world, frame, service)["friend__n_events"].to_pylist() == [1, None]


@pytest.mark.filterwarnings("ignore:On demand feature view:RuntimeWarning")
def test_on_demand_views_are_computed_from_what_was_joined(world: FeastWorld) -> None:
    from feast import Field, OnDemandFeatureView
    from feast.transformation.pandas_transformation import PandasTransformation
    from feast.types import Float64

    view = world.store.get_feature_view(VIEW)
    made = OnDemandFeatureView(
        name="derived",
        sources=[view],
        schema=[Field(name="twice", dtype=Float64)],
        feature_transformation=PandasTransformation(_doubled, inspect.getsource(_doubled)),
        mode="pandas",
    )
    world.store.apply([made])
    world.write(VIEW, embedding_rows([("x", T, T), ("a", T, T)]))
    frame = _join(world, _labels([("a", T)]), ("derived:twice",), full_feature_names=False)
    assert frame["twice"].to_pylist() == [2.0]


def _doubled(rows: pd.DataFrame) -> pd.DataFrame:
    return rows[["n_events"]].astype("float64").mul(2).rename(columns={"n_events": "twice"})


@pytest.mark.filterwarnings("ignore:(Saving|Retrieving) dataset:RuntimeWarning")
def test_a_saved_data_set_holds_the_frame(world: FeastWorld, tmp_path: Path) -> None:
    from feast.infra.offline_stores.file_source import SavedDatasetFileStorage

    world.write(VIEW, embedding_rows([("a", T, T)]))
    refs = [f"{VIEW}:n_events"]
    job = world.store.get_historical_features(_labels([("a", T), ("b", T)]), refs, full_feature_names=True)
    storage = SavedDatasetFileStorage(path=str(tmp_path / "saved.parquet"))
    saved = world.store.create_saved_dataset(job, "saved", storage, allow_overwrite=True)
    assert sorted(saved.to_df()[_N].fillna(-1)) == [-1, 0]
    assert saved.min_event_timestamp == T


def test_a_view_without_rows_and_a_frame_without_labels(world: FeastWorld) -> None:
    assert _numbers(world, ("a", T)) == [None]
    world.write(VIEW, embedding_rows([("a", T, T)]))
    frame = _labels([("a", pd.Timestamp(T))]).iloc[:0]
    assert _join(world, frame, (f"{VIEW}:n_events",)).num_rows == 0


def test_random_frames_are_those_of_feast(worlds: dict[str, FeastWorld]) -> None:
    random = np.random.default_rng(11)
    for view, scenario in ((VIEW, "fraud"), (_MONEY, "money")):
        for part in range(3):
            events = [T + timedelta(hours=int(hour)) for hour in random.integers(0, 300, 200)]
            late = [timedelta(minutes=int(m)) for m in random.integers(-60, 3_000, 200)]
            users = [f"r{number}" for number in random.integers(0, 30, 200)]
            keys = dict.fromkeys(zip(users, events, map(add, events, late), strict=True))
            for each in worlds.values():
                each.write(view, embedding_rows(list(keys), scenario=scenario), f"r{part}")
    moments = [T + timedelta(minutes=int(m)) for m in random.integers(-600, 25_000, 1_500)]
    labels = _labels([(f"r{n}", m) for n, m in zip(random.integers(0, 33, 1_500), moments, strict=True)])
    refs = tuple(
        f"{view}:{name}"
        for view, vector in ((VIEW, "emb_fraud"), (_MONEY, "emb_money"))
        for name in (vector, "model_version", "n_events", "last_event_ts")
    )
    frames = [_join(each, labels.copy(), refs) for each in worlds.values()]
    for each in worlds.values():
        each.empty()
    assert frames[0].column_names == frames[1].column_names
    for name in frames[0].column_names:
        assert frames[0][name].to_pylist() == frames[1][name].to_pylist(), name
    assert 100 < frames[1][_N].null_count < 1_400


def test_an_entity_frame_may_be_a_query(ours: FeastWorld, tmp_path: Path) -> None:
    ours.write(VIEW, embedding_rows([("a", T, T)]))
    _labels([("a", T), ("b", T)]).to_parquet(tmp_path / "labels.parquet")
    query = f"SELECT * FROM '{tmp_path / 'labels.parquet'}'"
    assert _join(ours, query)[_N].to_pylist() == [0, None]
    with pytest.raises(FeaturesInvalid, match="the entity query fails"):
        _join(ours, "SELECT * FROM nowhere")


def test_labels_without_a_user_or_a_moment_keep_their_place(ours: FeastWorld) -> None:
    ours.write(VIEW, embedding_rows([("a", T, T)]))
    assert _numbers(ours, (None, T), ("a", T), ("a", None)) == [None, 0, None]


def test_the_frame_keeps_the_order_of_the_labels(ours: FeastWorld) -> None:
    ours.write(VIEW, embedding_rows([("a", T, T)]))
    frame = _labels([(f"u{i}", T) for i in range(500)]).sample(frac=1, random_state=1)
    joined = ours.store.get_historical_features(frame, [f"{VIEW}:n_events"]).to_arrow()
    assert joined["label"].to_pylist() == frame["label"].tolist()


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (_labels([("a", T)]).rename(columns={"user_id": "customer"}), "no column 'user_id'"),
        (_labels([("a", T)]).assign(user_id=7), "user_id is int64, not text"),
        (_labels([("a", T)]).assign(n_events=1), "two columns 'n_events'"),
        (_labels([("a", "yesterday")]), "event_timestamp holds text that is no time"),
        (None, "joins rows to an entity frame alone"),
    ],
    ids=["no key", "key of numbers", "taken name", "no time", "no frame"],
)
def test_a_frame_that_cannot_be_joined_is_refused(ours: FeastWorld, frame: Any, message: str) -> None:
    with pytest.raises(FeaturesInvalid, match=message):
        ours.store.get_historical_features(frame, [f"{VIEW}:n_events"]).to_arrow()


def test_asking_for_nothing_special_does_not_leak_either(ours: FeastWorld) -> None:
    # Fault K: Feast filters by creation only where it is asked to.
    ours.write(VIEW, embedding_rows([("a", T, T + _DAY)]))
    frame = _join(ours, _labels([("a", T), ("a", T + _DAY)]), filter_by_created_timestamp=False)
    assert frame[_N].to_pylist() == [None, 0]


def test_feasts_offline_write_does_not_touch_part_files(ours: FeastWorld) -> None:
    # Fault H: Feast rewrites a file in place, and fails half-way on a folder.
    rows = embedding_rows([("a", T, T)])
    ours.write(VIEW, rows)
    before = {path: path.read_bytes() for path in ours.home.view(VIEW).iterdir()}
    with pytest.raises(FeaturesInvalid, match="never rewritten"):
        ours.store.write_to_offline_store(VIEW, rows.to_pandas())
    assert {path: path.read_bytes() for path in ours.home.view(VIEW).iterdir()} == before


def test_views_of_other_sources_are_joined_by_feast(ours: FeastWorld, tmp_path: Path) -> None:
    ours.store.apply(foreign_objects(tmp_path / "shops.parquet"))
    ours.write(VIEW, embedding_rows([("a", T, T)]))
    labels = _labels([("a", T + 2 * _DAY), ("b", T - _DAY)]).assign(shop_id=7)
    frame = _join(ours, labels, ("shops:sales", f"{VIEW}:n_events"))
    # Still nothing that was created later.
    assert frame["shops__sales"].to_pylist() == [1, None]
    assert frame[_N].to_pylist() == [0, None]


def test_a_query_may_be_joined_to_views_of_other_sources(ours: FeastWorld, tmp_path: Path) -> None:
    ours.store.apply(foreign_objects(tmp_path / "shops.parquet"))
    ours.write(VIEW, embedding_rows([("a", T, T)]))
    labels = _labels([("a", T + 2 * _DAY), ("b", T - _DAY)]).assign(shop_id=7)
    labels.to_parquet(tmp_path / "labels.parquet")
    query = f"SELECT * FROM '{tmp_path / 'labels.parquet'}'"
    for refs in (("shops:sales", f"{VIEW}:n_events"), ("shops:sales",)):
        frame = _join(ours, query, refs, filter_by_created_timestamp=False)
        assert frame["shops__sales"].to_pylist() == [2, None]


def test_history_that_is_loaded_today_is_joined_to_views_of_other_sources(
    ours: FeastWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours.store.apply(foreign_objects(tmp_path / "shops.parquet"))
    ours.write(VIEW, embedding_rows([("a", T, T), ("a", T + _DAY, T + 3 * _DAY)]))
    labels = _labels([("a", T + 2 * _DAY)]).assign(shop_id=7)

    def numbers(**options: Any) -> list[Any]:
        (row,) = _join(ours, labels, ("shops:sales", f"{VIEW}:n_events"), **options).to_pylist()
        return [row["shops__sales"], row[_N]]

    # Of our view nothing that was created later, whoever asks; of the others as the caller says.
    assert numbers(filter_by_created_timestamp=False) == [2, 0]
    assert numbers(filter_by_created_timestamp=True) == [1, 0]
    monkeypatch.setattr(ours.store.config.offline_store, "created_filter_for_all", True)
    assert numbers(filter_by_created_timestamp=False) == [1, 0]


def test_views_of_other_sources_keep_the_order_of_the_labels(ours: FeastWorld, tmp_path: Path) -> None:
    ours.store.apply(foreign_objects(tmp_path / "shops.parquet"))
    frame = _labels([(f"u{i}", T + 9 * _DAY) for i in range(300)]).assign(shop_id=[7, 8, 7] * 100)
    frame = frame.sample(frac=1, random_state=1)
    joined = ours.store.get_historical_features(frame, ["shops:sales"]).to_arrow()
    assert joined["label"].to_pylist() == frame["label"].tolist()
    assert joined["sales"].to_pylist() == [2 if shop == 7 else None for shop in frame["shop_id"]]


@pytest.mark.parametrize("feature", [f"{VIEW}:n_events", "shops:sales"])
def test_what_cannot_be_retrieved_says_so(ours: FeastWorld, tmp_path: Path, feature: str) -> None:
    ours.store.apply(foreign_objects(tmp_path / "shops.parquet"))
    with pytest.raises(FeaturesInvalid, match="joins rows to an entity frame alone"):
        ours.store.get_historical_features(features=[feature], start_date=T, end_date=T + _DAY).to_df()
    labels = _labels([("a", T)]).assign(shop_id=7)
    with pytest.raises(FeaturesInvalid, match=r"Use to_df\(\) or to_arrow\(\)"):
        ours.store.get_historical_features(labels, [feature]).to_sql()


def test_a_view_over_part_files_with_a_field_of_another_type_does_not_leak_either(
    ours: FeastWorld, tmp_path: Path
) -> None:
    from feast import FeatureView, Field, FileSource
    from feast.data_format import ParquetFormat
    from feast.types import Bool, String

    folder = tmp_path / "flags"
    flags = embedding_rows([("a", T, T), ("a", T + _DAY, T + 3 * _DAY)]).select(
        ["user_id", "event_timestamp", "created"]
    )
    write_part(folder, flags.append_column("flag", pa.array([True, False])), "p")
    source = FileSource(
        path=str(folder),
        file_format=ParquetFormat(),
        timestamp_field="event_timestamp",
        created_timestamp_column="created",
    )
    fields = [Field(name="user_id", dtype=String), Field(name="flag", dtype=Bool)]
    user = ours.store.get_entity("user")
    ours.store.apply([FeatureView(name="flags", entities=[user], schema=fields, source=source)])
    frame = _join(ours, _labels([("a", T + 2 * _DAY)]), ("flags:flag",), filter_by_created_timestamp=False)
    assert frame["flags__flag"].to_pylist() == [True]
