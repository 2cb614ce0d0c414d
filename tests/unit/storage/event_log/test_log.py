import errno
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from qanchor.errors import DiskFull, NotReady
from qanchor.storage import event_log
from qanchor.storage.event_log import EventLog, log_schema
from qanchor.workspace import FieldSpec, ModalitySpec, Workspace

_DAY = datetime(2026, 1, 1, 12, tzinfo=UTC)
_VISIT = ModalitySpec(text="{page}", fields={"page": FieldSpec(type="text")})
_WORKSPACE = Workspace(Path(), 90, {"visit": _VISIT}, {})
_SCHEMA = log_schema(_WORKSPACE)


def _table(ids: Sequence[str], days: Sequence[int] | None = None, ingested: int = 0, page: str = "p") -> Any:
    count = len(ids)
    times = [_DAY + timedelta(days=day) for day in days or [0] * count]
    columns = {
        "event_id": list(ids), "user_id": ["u"] * count, "event_time": times, "modality": ["visit"] * count,
        "page": [page] * count, "_partition": [None] * count, "_offset": [None] * count,
        "_ingested_at": [_DAY + timedelta(seconds=ingested)] * count,
    }  # fmt: skip
    return pa.table(columns, schema=_SCHEMA)


def _read(log: EventLog, query: str = "SELECT event_id, page FROM events ORDER BY ALL") -> list[Any]:
    with log.connect() as connection:
        rows: list[Any] = connection.execute(query).fetchall()
    return rows


def _one(connection: Any, query: str) -> Any:
    return connection.execute(query).fetchone()[0]


@pytest.fixture
def log(tmp_path: Path) -> EventLog:
    return EventLog(tmp_path / "events", _WORKSPACE)


def test_an_empty_log_has_the_view_with_every_column(log: EventLog) -> None:
    with log.connect() as connection:
        shown = connection.execute("SELECT * FROM events").to_arrow_table()
    assert shown.num_rows == 0
    assert shown.schema.names == _SCHEMA.names


def test_the_view_has_the_types_of_the_schema_in_utc(log: EventLog) -> None:
    log.publish(log.stage(_table(["a"])))
    with log.connect() as connection:
        shown = connection.execute("SELECT * FROM events").to_arrow_table()
    assert shown.schema.equals(_SCHEMA)
    assert shown["event_time"][0].as_py() == _DAY


def test_each_event_date_gets_a_file_of_its_own(log: EventLog) -> None:
    staged = log.stage(_table(["a", "b", "c"], [1, 0, 1]))
    assert [(file.event_date, file.rows) for file in staged] == [("2026-01-01", 1), ("2026-01-02", 2)]
    log.publish(staged)
    assert [path.parent.name for path in log.files()] == ["event_date=2026-01-01", "event_date=2026-01-02"]


def test_staged_files_are_not_data(log: EventLog) -> None:
    log.stage(_table(["a"]))
    assert log.files() == []
    assert _read(log) == []


def test_of_one_event_id_the_first_ingested_counts(log: EventLog) -> None:
    log.publish(log.stage(_table(["a", "b"], ingested=5, page="late")))
    log.publish(log.stage(_table(["a"], ingested=1, page="early")))
    log.publish(log.stage(_table(["b"], days=[3], ingested=9, page="later")))
    assert _read(log) == [("a", "early"), ("b", "late")]


def test_looking_for_repeats_is_bounded_in_memory_and_what_follows_is_not(log: EventLog) -> None:
    log.publish(log.stage(_table(["a", "b"])))
    limit = "SELECT current_setting('memory_limit')"
    with log.open_duckdb() as free, log.connect() as connection, log.connect(memory_limit="1GB") as bounded:
        assert _one(connection, limit) == _one(free, limit)
        assert _one(bounded, limit) != _one(free, limit)


def test_columns_that_old_files_lack_are_null(tmp_path: Path, log: EventLog) -> None:
    log.publish(log.stage(_table(["a"])))
    richer = ModalitySpec(
        text="{page}", fields={**_VISIT.fields, "seconds": FieldSpec(type="number", optional=True)}
    )
    newer = EventLog(log.root, Workspace(Path(), 90, {"visit": richer}, {}))
    assert _read(newer, "SELECT page, seconds FROM events") == [("p", None)]
    with newer.connect() as connection:
        assert connection.execute("SELECT * FROM events").to_arrow_table().schema.equals(newer.schema)


def test_a_connection_is_a_snapshot(log: EventLog) -> None:
    log.publish(log.stage(_table(["a"])))
    with log.connect() as connection:
        log.publish(log.stage(_table(["b"])))
        assert connection.execute("SELECT event_id FROM events").fetchall() == [("a",)]


def test_holds_says_which_events_are_there_already(log: EventLog) -> None:
    log.publish(log.stage(_table(["a", "b"], [0, 1])))
    assert log.holds(_table(["b", "c"], [1, 0])).tolist() == [True, False]


def test_a_full_disk_leaves_nothing_staged(log: EventLog, monkeypatch: pytest.MonkeyPatch) -> None:
    written = 0

    def write(table: Any, file: Any, **_: Any) -> None:
        nonlocal written
        written += 1
        if written == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        file.write(b"some bytes")

    monkeypatch.setattr("pyarrow.parquet.write_table", write)
    with pytest.raises(DiskFull, match="no space left"):
        log.stage(_table(["a", "b"], [0, 1]))
    assert list(log.root.glob("_staging/*.parquet")) == []


def test_recovery_renames_what_is_committed_and_removes_the_rest_of_the_dead(log: EventLog) -> None:
    committed, unknown = log.stage(_table(["a", "b"], [0, 1]))
    log.close()
    (log.root / "_staging" / f"{log.owner}.lock").touch()  # as a killed process leaves it
    heir = EventLog(log.root, _WORKSPACE)
    abandoned = heir.abandoned()
    assert sorted(abandoned) == sorted([committed.name, unknown.name])
    assert heir.recover({committed.name: committed.event_date}, abandoned) == 1
    assert [row[0] for row in _read(heir)] == ["a"]
    assert list(log.root.glob("_staging/*.parquet")) == []


def test_recovery_leaves_the_files_of_a_living_writer_alone(log: EventLog) -> None:
    log.stage(_table(["a"]))
    other = EventLog(log.root, _WORKSPACE)
    assert other.abandoned() == []
    assert len(list(log.root.glob("_staging/*.parquet"))) == 1


def test_recovery_tells_writers_apart_whose_names_begin_alike(log: EventLog) -> None:
    living = EventLog(log.root, _WORKSPACE, "shop-2")
    living.stage(_table(["a"]))
    restarted = EventLog(log.root, _WORKSPACE, "shop")
    restarted.claim()
    assert restarted.abandoned() == []


def test_staged_files_whose_writer_ended_without_its_lock_are_abandoned(log: EventLog) -> None:
    (staged,) = log.stage(_table(["a"]))
    log.close()
    assert EventLog(log.root, _WORKSPACE).abandoned() == [staged.name]


def test_recovery_removes_the_locks_of_the_dead_and_keeps_those_of_the_living(log: EventLog) -> None:
    log.claim()
    (log.root / "_staging" / "killed.lock").touch()
    EventLog(log.root, _WORKSPACE).abandoned()
    assert [path.stem for path in log.root.glob("_staging/*.lock")] == [log.owner]


def test_a_lock_taken_while_its_holder_removes_the_file_guards_nothing(tmp_path: Path) -> None:
    first, second, third = (EventLog(tmp_path, _WORKSPACE, "same") for _ in range(3))
    first.claim()
    first.close()
    second.claim()
    with pytest.raises(NotReady, match="'same'"):
        third.claim()
    second.close()


def test_publishing_twice_changes_nothing(log: EventLog) -> None:
    staged = log.stage(_table(["a"]))
    log.publish(staged)
    log.publish(staged)
    assert [row[0] for row in _read(log)] == ["a"]


def test_a_lost_committed_file_is_named(log: EventLog) -> None:
    staged = log.stage(_table(["a"]))
    log.discard(staged)
    with pytest.raises(NotReady, match=staged[0].name):
        log.publish(staged)


def test_two_writers_of_one_name_are_refused(tmp_path: Path) -> None:
    first, second = (EventLog(tmp_path, _WORKSPACE, "same") for _ in range(2))
    first.claim()
    with pytest.raises(NotReady, match="'same'"):
        second.claim()
    first.close()
    second.claim()
    second.close()


def test_files_are_plain_parquet_for_other_readers(log: EventLog) -> None:
    log.publish(log.stage(_table(["a"])))
    assert pq.read_table(log.files()[0], partitioning=None).schema.equals(_SCHEMA)


def test_the_public_names_are_sorted_and_there() -> None:
    # Constants first, then classes, then functions: the order that ruff keeps.
    order = sorted(event_log.__all__, key=lambda name: (not name.isupper(), name[0].islower(), name))
    assert event_log.__all__ == order
    assert all(hasattr(event_log, name) for name in event_log.__all__)
