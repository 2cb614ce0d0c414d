from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Engine, select
from sqlalchemy.orm import Session

from qanchor.errors import InputError, LabelsInvalid, NotReady, UnknownScenario
from qanchor.events import labels as module
from qanchor.events.ceilings import read_ceilings
from qanchor.events.label_rows import LABEL_SCHEMA, read_label_rows
from qanchor.events.labels import LabelLoader, Labels, earliest_cutoff, holdout_users, read_labels
from qanchor.home import Home
from qanchor.registry.session import open_engine
from qanchor.registry.tables import Base, LabelSet
from qanchor.settings import EventSettings
from qanchor.workspace import ModalitySpec, ScenarioSpec, Workspace

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


class Loader:
    """Writes a file and loads it into a fresh home."""

    def __init__(self, root: Path) -> None:
        self.home = Home(root / "home")
        self.engine: Engine = open_engine(f"sqlite:///{root / 'home' / 'qanchor.db'}")
        Base.metadata.create_all(self.engine)
        self.file = root / "labels.parquet"
        spec = ScenarioSpec(domain="risk", query="Will it happen at all?")
        modality = ModalitySpec(text="", fields={})
        self.workspace = Workspace(root, 90, {"bill": modality}, {"risk": spec, "other": spec})

    def load(self, table: pa.Table, scenario: str = "risk") -> module.LoadedLabels:
        pq.write_table(table, self.file)
        return self.load_file(self.file, scenario)

    def load_file(self, path: Path, scenario: str = "risk") -> module.LoadedLabels:
        return LabelLoader(self.home, self.engine, self.workspace).load(path, scenario)

    def add_events(self, users: list[str], moment: datetime) -> None:
        from qanchor.storage.event_log import EventLog, log_schema

        schema = log_schema(self.workspace)
        rows = [
            {"event_id": f"{user}-{moment}", "user_id": user, "event_time": moment, "modality": "bill"}
            | {"_ingested_at": moment}
            for user in users
        ]
        log = EventLog(self.home.events, self.workspace)
        log.publish(log.stage(pa.Table.from_pylist(rows, schema=schema)))
        log.close()


@pytest.fixture
def loader(tmp_path: Path) -> Loader:
    return Loader(tmp_path)


def label_table(rows: int = 12, **columns: Any) -> pa.Table:
    base = {
        "user_id": [f"u{i:03d}" for i in range(rows)],
        "as_of": [NOON] * rows,
        "label": [i % 2 for i in range(rows)],
    }
    return pa.table(base | columns)


def folds(rows: int = 12, count: int = 3) -> list[int]:
    return [i // 2 % count for i in range(rows)]


def stored(table: pa.Table, scenario: str = "risk") -> Labels:
    for name in ("fold", "split"):
        if name not in table.column_names:
            table = table.append_column(name, pa.nulls(table.num_rows))
    return Labels(scenario, table.select(LABEL_SCHEMA.names).cast(LABEL_SCHEMA))


def test_loaded_labels_are_read_back_with_types_and_order(loader: Loader) -> None:
    loader.load(label_table(fold=folds()).take(list(range(11, -1, -1))))
    found = read_labels(loader.home, "risk")
    assert found.table.schema == LABEL_SCHEMA
    assert found.table["user_id"].to_pylist() == [f"u{i:03d}" for i in range(12)]
    assert found.table["as_of"][0].as_py() == NOON
    assert (found.divided_by, found.folds, found.positives) == ("fold", (0, 1, 2), 6)


def test_loading_again_changes_nothing_and_other_labels_replace_the_row(loader: Loader) -> None:
    first = loader.load(label_table(fold=folds()))
    before = (loader.home.labels / "risk.parquet").read_bytes()
    second = loader.load(label_table(fold=folds()).take(list(range(11, -1, -1))))
    assert second.labels.content_hash == first.labels.content_hash
    assert (loader.home.labels / "risk.parquet").read_bytes() == before
    loader.load(label_table(20, fold=folds(20)))
    with Session(loader.engine) as session:
        rows = session.scalars(select(LabelSet)).all()
    assert [(row.scenario, row.rows, row.positives) for row in rows] == [("risk", 20, 10)]
    assert rows[0].content_hash != first.labels.content_hash
    assert rows[0].earliest_as_of == NOON.replace(tzinfo=None)


def test_csv_and_parquet_of_the_same_labels_are_the_same_set(loader: Loader, tmp_path: Path) -> None:
    table = label_table(user_id=[f"{i:03d}" for i in range(12)])
    first = loader.load(table)
    path = tmp_path / "labels.csv"
    times = ["2026-03-01T12:00:00Z", "2026-03-01 12:00:00", "2026-03-01T15:00:00+03:00"] * 4
    pacsv.write_csv(table.set_column(1, "as_of", pa.array(times)), path)
    second = loader.load_file(path)
    assert second.labels.content_hash == first.labels.content_hash
    assert second.labels.table["user_id"][7].as_py() == "007"


@pytest.mark.parametrize(
    "times",
    [
        pa.array([datetime(2026, 3, 1)] * 12, pa.timestamp("ns")),
        pa.array([datetime(2026, 3, 1)] * 12, pa.date32()),
        pa.array(["2026-03-01"] * 12),
        pa.array([datetime(2026, 3, 1, tzinfo=UTC)] * 12, pa.timestamp("s", tz="Asia/Tokyo")),
    ],
    ids=["naive", "date", "text", "zoned"],
)
def test_dates_and_naive_times_are_utc(loader: Loader, times: pa.Array) -> None:
    loaded = loader.load(label_table(as_of=times))
    assert set(loaded.labels.table["as_of"].to_pylist()) == {datetime(2026, 3, 1, tzinfo=UTC)}


def _with(values: list[Any], row: int, value: Any) -> list[Any]:
    return [*values[:row], value, *values[row + 1 :]]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"label": _with([0, 1] * 6, 3, 2)}, r"row 4, column label: '2' is neither 0 nor 1"),
        ({"label": _with([0.0, 1.0] * 6, 4, float("nan"))}, r"row 5, column label: 'nan' is neither"),
        ({"label": _with(["0", "1"] * 6, 4, "yes")}, r"row 5, column label: 'yes' is neither"),
        ({"label": _with([0, 1] * 6, 4, None)}, r"row 5, column label: is empty"),
        ({"user_id": _with([str(i) for i in range(12)], 2, None)}, r"row 3, column user_id: is empty"),
        ({"user_id": _with([str(i) for i in range(12)], 2, "")}, r"row 3, column user_id: is empty"),
        ({"user_id": [i + 0.5 for i in range(12)]}, r"column user_id holds double, not text"),
        ({"as_of": _with([NOON] * 12, 5, None)}, r"row 6, column as_of: is empty"),
        ({"as_of": _with(["2026-03-01"] * 12, 5, "soon")}, r"row 6, column as_of: 'soon' is no ISO 8601"),
        ({"as_of": [1] * 12}, r"column as_of holds int64, not a time"),
        (
            {"as_of": _with([NOON] * 12, 0, datetime(1900, 1, 1, tzinfo=UTC))},
            r"row 1, column as_of: .* before 1970",
        ),
        ({"as_of": _with([NOON] * 12, 0, datetime(2999, 1, 1, tzinfo=UTC))}, r"row 1, .* in the future"),
        (
            {"user_id": _with([str(i) for i in range(12)], 9, "3")},
            r"row 10, columns user_id and as_of: .*'3' has two at",
        ),
        ({"fold": folds(), "split": ["train"] * 12}, r"both fold and split"),
        ({"fold": _with(folds(), 1, None)}, r"row 2, column fold: is empty"),
        ({"fold": _with(folds(), 1, -1)}, r"row 2, column fold: '-1' is no whole number"),
        ({"fold": [0, 0, 1, 1] * 3}, r"2 fold\(s\) of risk leave a part empty"),
        ({"fold": [0, 0, 1, 1, 3, 3] * 2}, r"fold 2 is empty"),
        ({"fold": [0, 1, 0, 1] * 2 + [2] * 4, "label": [0, 1, 1, 0] * 2 + [1] * 4}, r"only label 1"),
        ({"split": _with(["train"] * 12, 6, "dev")}, r"row 7, column split: 'dev' is none of train"),
        ({"split": ["train", "train", "test", "test"] * 3}, r"part valid of risk has no rows"),
        ({"split": ["train"] * 6 + ["test", "valid"] * 3}, r"part valid of risk has only label 1"),
        ({"label": [1] * 12}, r"all 12 labels of risk are 1"),
        ({"label": [0] * 12}, r"all 12 labels of risk are 0"),
    ],
)
def test_a_fault_is_named_and_nothing_is_written(
    loader: Loader, columns: dict[str, Any], message: str
) -> None:
    with pytest.raises(LabelsInvalid, match=message):
        loader.load(label_table(**columns))
    assert not loader.home.labels.exists()
    with Session(loader.engine) as session:
        assert session.scalars(select(LabelSet)).all() == []


def test_a_missing_column_an_empty_file_and_a_file_that_is_none_are_named(
    loader: Loader, tmp_path: Path
) -> None:
    with pytest.raises(LabelsInvalid, match="no column 'as_of'"):
        loader.load(label_table().drop_columns("as_of"))
    with pytest.raises(LabelsInvalid, match="holds no rows"):
        loader.load(label_table().slice(0, 0))
    with pytest.raises(LabelsInvalid, match="there is no file"):
        loader.load_file(tmp_path / "absent.parquet")
    for name in ("broken.parquet", "broken.csv", "labels.xlsx"):
        (tmp_path / name).write_bytes(b"")
        with pytest.raises(LabelsInvalid, match=name):
            loader.load_file(tmp_path / name)


def test_an_unknown_scenario_is_refused(loader: Loader) -> None:
    with pytest.raises(UnknownScenario, match="Known: risk, other"):
        loader.load(label_table(), "nonsense")


def test_a_refused_file_leaves_the_labels_before_in_use(loader: Loader) -> None:
    loader.load(label_table(fold=folds()))
    with pytest.raises(LabelsInvalid):
        loader.load(label_table(label=[1] * 12))
    assert read_labels(loader.home, "risk").positives == 6
    assert [path.name for path in loader.home.labels.iterdir()] == ["risk.parquet"]


def test_rows_without_a_past_are_counted_and_a_file_of_only_such_rows_is_refused(loader: Loader) -> None:
    loader.add_events([f"u{i:03d}" for i in range(12)], NOON)
    with pytest.raises(LabelsInvalid, match="before all events"):
        loader.load(label_table(fold=folds()))
    loader.add_events(["u000", "u001", "u002"], datetime(2026, 2, 1, tzinfo=UTC))
    loaded = loader.load(label_table(fold=folds()))
    assert loaded.without_history == 9
    assert any("9 of 12 rows (75.0%) have no event before" in warning for warning in loaded.warnings)


def test_an_empty_event_log_warns_and_does_not_refuse(loader: Loader) -> None:
    loaded = loader.load(label_table(fold=folds()))
    assert loaded.without_history is None
    assert any("event log is empty" in warning for warning in loaded.warnings)


def test_folds_make_test_the_highest_and_valid_the_next_lower_in_a_ring() -> None:
    labels = stored(label_table(fold=folds()))

    def users(part: module.Part, test_fold: int | None = None) -> set[int]:
        return set(labels.part(part, test_fold)["fold"].to_pylist())

    assert (users("test"), users("valid"), users("train")) == ({2}, {1}, {0})
    assert (users("test", 0), users("valid", 0), users("train", 0)) == ({0}, {2}, {1})
    with pytest.raises(LabelsInvalid, match="no fold 7"):
        labels.part("test", 7)


def test_a_split_column_is_followed_and_knows_no_folds() -> None:
    split = ["train", "train", "valid", "valid", "test", "test"] * 2
    labels = stored(label_table(split=split))
    assert labels.part("test")["user_id"].to_pylist() == ["u004", "u005", "u010", "u011"]
    with pytest.raises(LabelsInvalid, match="divided by split"):
        labels.part("test", 0)


@given(st.lists(st.text(min_size=1, max_size=8), min_size=1, max_size=40), st.sampled_from([0, 3]))
def test_parts_hold_every_row_exactly_once(users: list[str], folds_count: int) -> None:
    rows = len(users)
    columns: dict[str, Any] = {"user_id": users}
    if folds_count:
        columns["fold"] = [i % folds_count for i in range(rows)]
    labels = stored(label_table(rows, **columns))
    found = [labels.part(part)["user_id"].to_pylist() for part in ("train", "valid", "test")]
    assert sorted(chain.from_iterable(found)) == sorted(users)
    if not folds_count:
        assert all(not set(a) & set(b) for a, b in [(found[0], found[1]), (found[1], found[2])])


def test_the_hash_divides_users_70_10_20_and_never_changes() -> None:
    labels = stored(label_table(4000))
    shares = [labels.part(part).num_rows / 4000 for part in ("train", "valid", "test")]
    assert shares == pytest.approx([0.7, 0.1, 0.2], abs=0.03)
    small = stored(label_table(12))
    assert small.part("test")["user_id"].to_pylist() == ["u003", "u004", "u005", "u006", "u007", "u010"]


def test_the_earliest_cutoff_skips_training_rows_of_a_split_only(loader: Loader) -> None:
    assert earliest_cutoff(loader.home) is None
    months = [datetime(2026, 1 + i // 4, 1, tzinfo=UTC) for i in range(12)]
    split = ["train"] * 4 + ["valid"] * 4 + ["test"] * 4
    loader.load(label_table(as_of=months, split=split))
    assert earliest_cutoff(loader.home) == datetime(2026, 2, 1, tzinfo=UTC)
    assert holdout_users(loader.home) == {"u008", "u009", "u010", "u011"}
    loader.load(label_table(as_of=months, fold=folds()), "other")
    assert earliest_cutoff(loader.home) == datetime(2026, 1, 1, tzinfo=UTC)
    assert holdout_users(loader.home) == {"u008", "u009", "u010", "u011"}


def test_users_in_the_test_part_and_another_are_warned_of(loader: Loader) -> None:
    users = [f"u{i % 6}" for i in range(12)]
    times = [datetime(2026, 1, 1, tzinfo=UTC)] * 6 + [NOON] * 6
    split = ["train"] * 4 + ["valid"] * 2 + ["test"] * 6
    loaded = loader.load(label_table(user_id=users, as_of=times, split=split))
    assert any("6 users are in the test part and in another one" in warning for warning in loaded.warnings)


def test_absent_and_damaged_labels_say_what_to_run(loader: Loader) -> None:
    with pytest.raises(NotReady, match="labels load risk FILE"):
        read_labels(loader.home, "risk")
    loader.load(label_table(fold=folds()))
    (loader.home.labels / "risk.parquet").write_bytes(b"PAR1 no more")
    with pytest.raises(NotReady, match="labels load risk FILE"):
        read_labels(loader.home, "risk")


def test_the_ceiling_beside_the_labels_is_kept_with_them(loader: Loader, tmp_path: Path) -> None:
    assert read_ceilings(loader.home) == {}
    (tmp_path / "ceilings.json").write_text('{"risk": {"expected": 0.8, "rows": 9}, "more": 0.9}')
    loader.load(label_table(fold=folds()))
    assert read_ceilings(loader.home) == {"risk": 0.8}
    (tmp_path / "deep").mkdir()
    deep = tmp_path / "deep" / "labels.parquet"
    pq.write_table(label_table(), deep)
    loader.load_file(deep, "other")
    assert read_ceilings(loader.home) == {"risk": 0.8}
    (tmp_path / "ceilings.json").unlink()
    loader.load(label_table(fold=folds()))
    assert read_ceilings(loader.home) == {}


@pytest.mark.parametrize("content", ["[]", "{", '{"risk": 1.5}', '{"risk": {}}', '{"risk": "high"}'])
def test_ceilings_that_do_not_hold_are_refused(loader: Loader, tmp_path: Path, content: str) -> None:
    (tmp_path / "ceilings.json").write_text(content)
    with pytest.raises(LabelsInvalid, match="ceiling"):
        loader.load(label_table(fold=folds()))


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ('user_id,as_of,label\n"u1,2026-01-01,1\n"u2",2026-01-01,0\n', "line 2: a quote is opened"),
        ("user_id,as_of,label,label\nu1,2026-01-01,1,0\n", "column 'label' twice"),
    ],
)
def test_a_label_file_that_cannot_be_read_as_it_looks_is_refused(
    tmp_path: Path, content: str, problem: str
) -> None:
    path = tmp_path / "labels.csv"
    path.write_text(content)
    with pytest.raises(InputError, match=problem):
        read_label_rows(path, EventSettings())


@pytest.mark.parametrize(("seconds", "problem"), [(10**13, "in the future"), (-(10**13), "is before 1970")])
def test_a_label_of_a_far_year_is_out_of_range(tmp_path: Path, seconds: int, problem: str) -> None:
    times = pa.array([0, seconds], pa.int64()).view(pa.timestamp("s"))
    times = pa.concat_arrays([pa.array([NOON], times.type), times[1:]])
    path = tmp_path / "labels.parquet"
    pq.write_table(pa.table({"user_id": ["a", "b"], "as_of": times, "label": [0, 1]}), path)
    with pytest.raises(LabelsInvalid, match=f"row 2, column as_of: .*{problem}"):
        read_label_rows(path, EventSettings())
