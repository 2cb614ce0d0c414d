"""The row of each label is the one that a slow loop over Feast's rules would pick."""

from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qanchor.errors import FeaturesInvalid, NotReady
from qanchor.storage.parts import embedding_schema, ensure_part, write_part
from qanchor.storage.point_in_time import FOREVER, Positions, latest_rows, read_by_part, read_rows, rows_as_of
from tests.unit.storage.rows import Row, embedding_rows

_T = datetime(2026, 5, 1, tzinfo=UTC)
_TTL = timedelta(hours=6)
_ALWAYS = timedelta(days=36_500)
_SCHEMA = embedding_schema("fraud")
Label = tuple[str, datetime]


def _requests(labels: Sequence[Label]) -> pa.Table:
    users, moments = zip(*labels, strict=True) if labels else ((), ())
    return pa.table(
        {"user_id": pa.array(users, pa.string()), "as_of": pa.array(moments, pa.timestamp("us", "UTC"))}
    )


def _write(folder: Path, rows: Sequence[Row], parts: int = 1) -> None:
    table = embedding_rows(rows)
    for part in range(parts):
        write_part(folder, table.take(pa.array(range(part, len(rows), parts), pa.int64())), f"p{part}")


def _joined(folder: Path, labels: Sequence[Label], ttl: timedelta = _ALWAYS) -> list[int | None]:
    found = read_rows(rows_as_of(folder, _requests(labels), ttl), _SCHEMA)
    numbers: list[int | None] = found["n_events"].to_pylist()
    # The vector is of the same row: row i is full of i.
    vectors = found["emb_fraud"].to_pylist()
    assert [None if v is None else int(v[127]) for v in vectors] == numbers
    return numbers


def _slowly(rows: Sequence[Row], label: Label, ttl: timedelta) -> set[tuple[datetime, datetime]]:
    user, as_of = label
    clocks = [
        (event, created)
        for key, event, created in rows
        if key == user and event <= as_of and created <= as_of <= event + ttl
    ]
    return {max(clocks)} if clocks else set()


_HOURS = st.integers(0, 14).map(lambda hours: _T + timedelta(hours=hours))
_ROWS = st.lists(st.tuples(st.sampled_from("ab"), _HOURS, _HOURS), max_size=12)


@settings(max_examples=12, deadline=None)
@given(_ROWS, st.lists(st.tuples(st.sampled_from("abc"), _HOURS), min_size=1, max_size=20), st.integers(1, 3))
def test_the_joined_row_is_that_of_a_slow_loop(rows: list[Row], labels: list[Label], parts: int) -> None:
    with TemporaryDirectory() as folder:
        ensure_part(Path(folder), _SCHEMA)
        _write(Path(folder), rows, parts)
        joined = _joined(Path(folder), labels, _TTL)
    assert len(joined) == len(labels)
    for label, number in zip(labels, joined, strict=True):
        clocks = set() if number is None else {rows[number][1:]}
        assert clocks == _slowly(rows, label, _TTL)


def test_a_label_whose_user_has_no_past_keeps_its_row_and_place(tmp_path: Path) -> None:
    _write(tmp_path, [("a", _T, _T)])
    assert _joined(tmp_path, [("x", _T), ("a", _T), ("a", _T - timedelta(microseconds=1)), ("a", _T)]) == [
        None,
        0,
        None,
        0,
    ]


def test_time_to_live_includes_its_last_microsecond(tmp_path: Path) -> None:
    _write(tmp_path, [("a", _T, _T)])
    end = _T + _TTL
    assert _joined(tmp_path, [("a", end), ("a", end + timedelta(microseconds=1))], _TTL) == [0, None]


def test_of_two_rows_of_one_moment_the_later_created_wins(tmp_path: Path) -> None:
    hour = timedelta(hours=1)
    _write(tmp_path, [("a", _T, _T + 2 * hour), ("a", _T, _T + hour), ("a", _T, _T + 3 * hour)])
    assert _joined(tmp_path, [("a", _T + hour * i) for i in range(5)]) == [None, 1, 0, 2, 2]


def test_a_row_that_was_created_later_does_not_leak(tmp_path: Path) -> None:
    day = timedelta(days=1)
    _write(tmp_path, [("a", _T, _T), ("a", _T + day, _T + 10 * day)])
    assert _joined(tmp_path, [("a", _T + 2 * day), ("a", _T + 10 * day)]) == [0, 1]


def test_a_row_that_arrives_outdated_does_not_replace_a_newer_one(tmp_path: Path) -> None:
    day = timedelta(days=1)
    _write(tmp_path, [("a", _T + day, _T + day), ("a", _T, _T + 2 * day)])
    assert _joined(tmp_path, [("a", _T + 3 * day)]) == [0]


def test_a_view_with_only_its_empty_part_joins_nulls(tmp_path: Path) -> None:
    ensure_part(tmp_path, _SCHEMA)
    assert _joined(tmp_path, [("a", _T), ("b", _T)]) == [None, None]
    assert _joined(tmp_path, []) == []


def test_a_folder_that_was_never_applied_is_not_ready(tmp_path: Path) -> None:
    with pytest.raises(NotReady, match="feast apply"):
        rows_as_of(tmp_path / "none", _requests([("a", _T)]), _TTL)


def test_a_column_that_an_old_part_lacks_reads_as_null(tmp_path: Path) -> None:
    write_part(tmp_path, embedding_rows([("a", _T, _T)]).drop_columns(["n_events"]), "old")
    write_part(tmp_path, embedding_rows([("b", _T, _T)]), "new")
    found = read_rows(rows_as_of(tmp_path, _requests([("a", _T), ("b", _T)]), _ALWAYS), _SCHEMA)
    assert found["n_events"].to_pylist() == [None, 0]
    assert found["model_version"].to_pylist() == ["m0", "m0"]


def test_a_part_that_has_none_of_the_columns_reads_as_nulls(tmp_path: Path) -> None:
    write_part(tmp_path, embedding_rows([("a", _T, _T)]).drop_columns(["n_events"]), "old")
    rows = rows_as_of(tmp_path, _requests([("a", _T), ("b", _T)]), FOREVER)
    found = read_rows(rows, pa.schema([_SCHEMA.field("n_events")]))
    assert found["n_events"].to_pylist() == [None, None]


@pytest.mark.parametrize("users", ["abc", "ca", "xbx", "x"])
@pytest.mark.parametrize("name", [field.name for field in _SCHEMA])
def test_each_column_can_be_read_alone(tmp_path: Path, name: str, users: str) -> None:
    # A table without columns has no rows for Arrow to take from.
    _write(tmp_path, [("a", _T, _T), ("b", _T, _T), ("c", _T, _T)])
    rows = rows_as_of(tmp_path, _requests([(user, _T) for user in users]), FOREVER)
    alone = read_rows(rows, pa.schema([_SCHEMA.field(name)]))
    assert alone.column_names == [name]
    assert alone[name].to_pylist() == read_rows(rows, _SCHEMA)[name].to_pylist()
    if name != "last_event_ts":
        assert [value is None for value in alone[name].to_pylist()] == [user == "x" for user in users]


@pytest.mark.parametrize("name", ["n_events", "emb_fraud"])
def test_a_column_that_an_old_part_lacks_can_be_read_alone(tmp_path: Path, name: str) -> None:
    write_part(tmp_path, embedding_rows([(user, _T, _T) for user in "abc"]).drop_columns([name]), "old")
    write_part(tmp_path, embedding_rows([("d", _T, _T), ("e", _T, _T)]), "new")
    rows = rows_as_of(tmp_path, _requests([("e", _T), ("c", _T), ("a", _T)]), FOREVER)
    if name == "emb_fraud":
        with pytest.raises(FeaturesInvalid, match="null"):
            read_rows(rows, pa.schema([_SCHEMA.field(name)]))
    else:
        assert read_rows(rows, pa.schema([_SCHEMA.field(name)]))[name].to_pylist() == [1, None, None]


def test_memory_holds_a_bounded_piece_of_a_part_at_a_time(tmp_path: Path) -> None:
    users = [f"u{i:02d}" for i in range(50)]
    _write(tmp_path, [(user, _T, _T) for user in users], parts=2)
    labels = _requests([(user, _T) for user in reversed(users) if user != "u07"])
    pieces = list(read_by_part(rows_as_of(tmp_path, labels, _ALWAYS), _SCHEMA, rows_at_once=7))
    assert max(len(table) for _, table in pieces) <= 7
    found = {int(place): user for places, table in pieces for place, user in _pairs(places, table)}
    assert [found[place] for place in range(49)] == labels["user_id"].to_pylist()


def _pairs(positions: Positions, table: pa.Table) -> Iterator[tuple[int, str]]:
    return zip(positions, table["user_id"].to_pylist(), strict=True)


def test_a_folder_whose_name_holds_a_quote_can_be_read(tmp_path: Path) -> None:
    folder = tmp_path / "it's"
    _write(folder, [("a", _T, _T)])
    assert _joined(folder, [("a", _T)]) == [0]


@pytest.fixture
def far_zone(set_zone: Callable[[str], None]) -> None:
    set_zone("Pacific/Auckland")


@pytest.mark.usefixtures("far_zone")
def test_the_zone_of_the_process_changes_nothing(tmp_path: Path) -> None:
    _write(tmp_path, [("a", _T, _T)])
    second = timedelta(seconds=1)
    assert _joined(tmp_path, [("a", _T - second), ("a", _T)]) == [None, 0]
    rows = latest_rows(tmp_path, _T, _T, timedelta(0))
    assert rows.row.tolist() == [0]


def test_the_latest_row_of_each_user_ends_with_the_span(tmp_path: Path) -> None:
    day = timedelta(days=1)
    _write(
        tmp_path, [("a", _T, _T), ("a", _T + day, _T + day), ("b", _T, _T), ("c", _T + 2 * day, _T)], parts=2
    )
    rows = latest_rows(tmp_path, datetime(1970, 1, 1, tzinfo=UTC), _T + day, timedelta(0))
    assert sorted(read_rows(rows, _SCHEMA)["n_events"].to_pylist()) == [1, 2]


def test_an_incremental_span_finds_rows_that_arrived_late(tmp_path: Path) -> None:
    day = timedelta(days=1)
    mark = _T + 10 * day
    late = ("a", mark - 5 * day, mark + day)
    at_the_mark = ("b", mark - 5 * day, mark - day)
    old = ("c", mark - 5 * day, mark - 5 * day)
    _write(tmp_path, [late, at_the_mark, old])
    rows = latest_rows(tmp_path, mark, mark + 2 * day, overlap=3 * day)
    assert sorted(read_rows(rows, _SCHEMA)["user_id"].to_pylist()) == ["a", "b"]
