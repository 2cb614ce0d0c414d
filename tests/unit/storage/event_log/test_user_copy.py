"""What a copy of the log by user shows of some users is what the whole log shows, whatever came since."""

import logging
import shutil
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import duckdb
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine

from qanchor.registry.session import open_engine
from qanchor.registry.tables import Base
from qanchor.storage.event_log import (
    CompactionRequest,
    Compactor,
    CopyLayout,
    EventLog,
    LogRows,
    UserCopy,
    append,
    keep_copy,
    open_copy,
    remove_copies,
)
from qanchor.workspace import load_workspace
from tests.unit.embedding.world import day, make_workspace

USERS = ("ann", "bob", "cyd", "dan")
# (event_id, user, day, day of arrival): ids that repeat, on other dates and by other users, too.
Row = tuple[str, str, int, int]
_rows = st.lists(
    st.tuples(st.sampled_from("abcdefghij"), st.sampled_from(USERS), st.integers(1, 4), st.integers(1, 4)),
    min_size=1,
    max_size=6,
)
_steps = st.lists(st.one_of(_rows, st.sampled_from(["copy", "compact", "lose"])), min_size=2, max_size=8)


class Place:
    """A log with its ledger and its copies."""

    def __init__(self, folder: Path) -> None:
        self.log = EventLog(folder / "events", make_workspace(folder / "repo"))
        self.copies = folder / "cache" / "events_by_user"
        self.engine: Engine = open_engine(f"sqlite:///{folder / 'q.db'}")
        Base.metadata.create_all(self.engine)

    def add(self, rows: Sequence[Row], log: EventLog | None = None) -> None:
        """Append events."""
        log = log or self.log
        bill = {"modality": "bill", "shop": "corner", "amount": 5.0}
        table = pa.Table.from_pylist(
            [
                {"event_id": name, "user_id": user, "event_time": day(at), "_ingested_at": day(came), **bill}
                for name, user, at, came in rows
            ],
            schema=log.schema,
        )
        append(self.engine, log, table)

    def copy(self) -> UserCopy:
        """Make one."""
        found = keep_copy(self.log, self.copies)
        assert found is not None
        return found

    def compact(self) -> None:
        """Compact everything, and delete what was replaced."""
        Compactor(self.engine, self.log, CompactionRequest(grace=timedelta())).run()

    def lose_a_day(self) -> None:
        """Somebody deletes the oldest date."""
        if files := self.log.files():
            shutil.rmtree(files[0].parent)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def _theirs(source: Any, users: Sequence[str]) -> list[tuple[Any, ...]]:
    with source.connect() as connection:
        connection.register("few", pa.table({"user_id": pa.array(users, pa.string())}))
        query = "SELECT * FROM events SEMI JOIN few USING (user_id) ORDER BY ALL"
        found: list[tuple[Any, ...]] = connection.execute(query).fetchall()
    return found


def _read(place: Place, users: Sequence[str], log: EventLog | None = None) -> list[tuple[Any, ...]]:
    with closing(LogRows(log or place.log, place.copies)) as rows:
        return _theirs(rows.of_users(users), users)


def _same_as_the_log(place: Place, users: Sequence[str] = USERS) -> None:
    assert _read(place, users) == _theirs(place.log, users)


@pytest.fixture
def scans(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many files were opened, each time that stored rows were asked for."""
    opened: list[int] = []
    read: Callable[..., str] = EventLog.stored_rows

    def noted(self: EventLog, connection: Any, files: Sequence[Path]) -> str:
        opened.append(len(files))
        return read(self, connection, files)

    monkeypatch.setattr(EventLog, "stored_rows", noted)
    return opened


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(steps=_steps, users=st.lists(st.sampled_from(USERS), unique=True))
def test_a_copy_and_what_came_since_are_the_whole_log(steps: list[Any], users: list[str]) -> None:
    with TemporaryDirectory() as folder:
        place = Place(Path(folder))
        try:
            for step in steps:
                match step:
                    case "copy":
                        keep_copy(place.log, place.copies, CopyLayout(group_rows=2, part_groups=2))
                    case "compact":
                        place.compact()
                    case "lose":
                        place.lose_a_day()
                    case rows:
                        place.add(rows)
                _same_as_the_log(place, users)
        finally:
            place.log.close()
            place.engine.dispose()


def test_a_user_is_read_without_opening_the_files_of_the_log(place: Place, scans: list[int]) -> None:
    for at in range(1, 9):
        place.add([(f"{user}{at}", user, at, at) for user in USERS])
    place.copy()
    scans.clear()
    place.add([("new", "bob", 20, 20)])
    with closing(LogRows(place.log, place.copies)) as rows:
        users, last = rows.arrived(day(9), before=day(30))
        found = rows.of_users(users.to_pylist())
        assert (users.to_pylist(), last) == (["bob"], day(20))
        assert max(scans) == 1
        assert [row[0] for row in _theirs(found, USERS)] == [*(f"bob{at}" for at in range(1, 9)), "new"]


def test_a_repeat_of_another_users_event_asks_the_whole_log(place: Place, scans: list[int]) -> None:
    place.add([("a", "ann", 1, 1)])
    place.add([("b", "bob", 2, 2)])
    place.copy()
    place.add([("a", "bob", 3, 3), ("b", "cyd", 3, 1)])
    scans.clear()
    assert _read(place, ["bob"]) == []  # "a" is ann's, and cyd's "b" came first, if late to the log
    assert max(scans) == 3
    _same_as_the_log(place)


def test_a_compacted_date_is_read_from_the_log_and_the_others_from_the_copy(
    place: Place, scans: list[int]
) -> None:
    for number, at in enumerate((1, 2, 3, 3)):
        place.add([(f"e{number}", "ann", at, at)])
    place.copy()
    place.compact()
    scans.clear()
    assert [row[0] for row in _read(place, ["ann"])] == ["e0", "e1", "e2", "e3"]
    assert max(scans) == 1


def test_what_a_lost_date_kept_from_counting_counts_again(place: Place) -> None:
    place.add([("a", "ann", 1, 1), ("c", "cyd", 3, 3)])
    place.add([("a", "bob", 2, 2)])
    place.copy()
    place.lose_a_day()
    assert [row[:2] for row in _read(place, ["bob"])] == [("a", "bob")]


def test_columns_that_came_later_are_read_from_the_log(place: Place) -> None:
    place.add([("a", "ann", 1, 1)])
    place.copy()
    path = place.log.workspace.repo / "modalities.yaml"
    path.write_text(path.read_text().replace("{type: text}", "{type: text}, town: {type: text}", 1))
    grown = EventLog(place.log.root, load_workspace(path.parent))
    assert "town" in grown.schema.names
    assert open_copy(place.copies, grown) is None
    assert _read(place, ["ann"], grown) == _theirs(grown, ["ann"])


@pytest.mark.parametrize("file", ["part-000000.parquet", "groups.parquet", "hashes.npy", "about.json"])
@pytest.mark.parametrize("harm", ["deleted", "cut", "spoiled"])
def test_a_damaged_copy_is_not_read(place: Place, file: str, harm: str) -> None:
    place.add([(f"{user}{at}", user, at, at) for user in USERS for at in (1, 2)])
    path = place.copy().folder / file
    place.add([("new", "ann", 3, 3), ("ann1", "bob", 3, 3)])
    if harm == "deleted":
        path.unlink()
    else:
        size = path.stat().st_size
        path.write_bytes(path.read_bytes()[: size // 2] if harm == "cut" else b"x" * size)
    _same_as_the_log(place)


def test_the_same_log_is_not_copied_twice_and_old_copies_go(place: Place) -> None:
    place.add([("a", "ann", 1, 1)])
    first = place.copy().folder
    assert place.copy().folder == first
    (place.copies / ".killed").mkdir()
    place.add([("b", "ann", 2, 2)])
    second = place.copy().folder
    assert {path for path in place.copies.iterdir() if path.is_dir()} == {first, second}  # one may be read
    copy = keep_copy(place.log, place.copies, CopyLayout(kept_seconds=0.0))
    assert copy is not None
    assert copy.folder == second
    assert [path for path in place.copies.iterdir() if path.is_dir()] == [second]
    remove_copies(place.copies)
    assert not any(path.is_dir() for path in place.copies.iterdir())
    _same_as_the_log(place)


class FullDisk(EventLog):
    """A log that DuckDB has no space to sort."""

    def connect(self, *_: Any, **__: Any) -> Any:
        raise duckdb.IOException("Could not write file: No space left on device")


def test_a_full_disk_costs_the_copies_and_nothing_else(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    place.add([("a", "ann", 1, 1)])
    old = place.copy().folder
    place.add([("b", "ann", 2, 2)])
    with caplog.at_level(logging.WARNING):
        assert keep_copy(FullDisk(place.log.root, place.log.workspace), place.copies) is None
    assert "refreshes will scan it whole" in caplog.text
    assert not old.exists()
    assert not any(path.is_dir() for path in place.copies.iterdir())
    _same_as_the_log(place)


def test_a_copy_of_another_duckdb_is_not_read(place: Place) -> None:
    place.add([("a", "ann", 1, 1)])
    copy = place.copy()
    path = copy.folder / "about.json"
    path.write_text(path.read_text().replace(duckdb.__version__, "0.0.1"))
    assert replace(copy.about, duckdb="0.0.1").duckdb == "0.0.1"
    assert open_copy(place.copies, place.log) is None


def test_a_copy_is_read_as_the_log_is(place: Place) -> None:
    place.add([("a", "ann", 1, 1), ("b", "bob", 2, 2)])
    place.add([("a", "ann", 1, 3)])
    assert _theirs(place.copy(), USERS) == _theirs(place.log, USERS)


def test_an_empty_log_has_no_copy(place: Place) -> None:
    assert keep_copy(place.log, place.copies) is None
