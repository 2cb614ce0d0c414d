import os
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sqlalchemy import Engine

from qanchor.errors import DiskFull
from qanchor.registry import ledger
from qanchor.storage.event_log import (
    CompactionRequest,
    CompactionSummary,
    Compactor,
    EventLog,
    append,
    log_schema,
    recover,
    settle,
)
from qanchor.workspace import FieldSpec, ModalitySpec, Workspace

_DAY = datetime(2026, 1, 1, 12, tzinfo=UTC)
_VISIT = ModalitySpec(text="{page}", fields={"page": FieldSpec(type="text")})
_WORKSPACE = Workspace(Path(), 90, {"visit": _VISIT}, {})
_SCHEMA = log_schema(_WORKSPACE)
_AT_ONCE = timedelta()


@pytest.fixture
def log(tmp_path: Path) -> EventLog:
    return EventLog(tmp_path / "events", _WORKSPACE)


def _table(ids: Sequence[str], day: int = 0, ingested: int = 0, page: str = "p") -> Any:
    count = len(ids)
    columns = {
        "event_id": list(ids), "user_id": [f"u{name}" for name in reversed(ids)],
        "event_time": [_DAY + timedelta(days=day, seconds=number) for number in range(count)],
        "modality": ["visit"] * count, "page": [page] * count, "_partition": [None] * count,
        "_offset": [None] * count, "_ingested_at": [_DAY + timedelta(seconds=ingested)] * count,
    }  # fmt: skip
    return pa.table(columns, schema=_SCHEMA)


def _append(engine: Engine, log: EventLog, *tables: Any) -> None:
    for table in tables:
        append(engine, log, table)


def _compact(engine: Engine, log: EventLog, **request: Any) -> CompactionSummary:
    return Compactor(engine, log, CompactionRequest(**request)).run()


def _read(log: EventLog, query: str = "SELECT event_id, page FROM events ORDER BY ALL") -> list[Any]:
    with log.connect() as connection:
        rows: list[Any] = connection.execute(query).fetchall()
    return rows


def test_the_files_of_a_date_become_one_that_is_sorted_and_has_each_event_once(
    engine: Engine, log: EventLog
) -> None:
    _append(
        engine, log, _table("cab", ingested=2), _table("bd", ingested=1, page="first"), _table("e", day=1)
    )
    before = _read(log)
    summary = _compact(engine, log)
    (done,) = summary.dates
    assert (done.event_date, done.files_before, done.files_after) == ("2026-01-01", 2, 1)
    assert (done.events, done.repeats) == (4, 1)
    (file,) = log.files_of("2026-01-01")
    stored = pq.read_table(file, partitioning=None)
    assert stored.schema.equals(_SCHEMA)
    keys = list(zip(stored["user_id"].to_pylist(), stored["event_time"].to_pylist(), strict=True))
    assert keys == sorted(keys)
    assert _read(log) == before == [("a", "p"), ("b", "first"), ("c", "p"), ("d", "first"), ("e", "p")]


def test_a_second_run_finds_nothing_to_do(engine: Engine, log: EventLog) -> None:
    _append(engine, log, _table("a"), _table("b"))
    _compact(engine, log)
    files = log.files()
    assert _compact(engine, log).dates == []
    assert log.files() == files


def test_events_that_come_later_are_merged_by_the_next_run(engine: Engine, log: EventLog) -> None:
    _append(engine, log, _table("a"), _table("b"))
    _compact(engine, log)
    _append(engine, log, _table("ca"))
    (done,) = _compact(engine, log).dates
    assert (done.files_before, done.events, done.repeats) == (2, 3, 1)


def test_a_reader_that_began_before_reads_on_until_the_grace_period_ends(
    engine: Engine, log: EventLog
) -> None:
    _append(engine, log, _table("a"), _table("b"))
    with log.connect() as connection:
        assert _compact(engine, log).waiting == 2
        assert connection.execute("SELECT count(*) FROM events").fetchone() == (2,)
    assert len(log.files()) == 1
    again = _compact(engine, log, grace=_AT_ONCE)
    assert (again.deleted, again.waiting) == (2, 0)
    assert len(list(log.root.rglob("*.parquet"))) == 1
    assert list(log.root.rglob("_replaced*")) == []
    assert ledger.replaced_files(engine) == {}
    assert _read(log) == [("a", "p"), ("b", "p")]


@pytest.mark.parametrize("name", ["_replaced-1-2.part", "._replaced-1-2.json.3-4.tmp"])
def test_a_torn_note_of_a_killed_compaction_is_removed(engine: Engine, log: EventLog, name: str) -> None:
    """The first form is that of 0.1.0."""
    _append(engine, log, _table("a"), _table("b"))
    torn = log.root / "event_date=2026-01-01" / name
    torn.write_text('{"at": 1')
    _compact(engine, log, grace=_AT_ONCE)
    assert torn.exists()  # a young one might be somebody's work
    os.utime(torn, (0, 0))
    _compact(engine, log, grace=_AT_ONCE)
    assert not torn.exists()


def test_dates_are_chosen_by_date_and_by_the_time_of_the_last_addition(engine: Engine, log: EventLog) -> None:
    for day in range(3):
        _append(engine, log, _table(f"{day}a", day), _table(f"{day}b", day))
    assert _compact(engine, log, older_than=timedelta(hours=1)).dates == []
    assert _compact(engine, log, min_files=3).dates == []
    done = _compact(engine, log, before=date(2026, 1, 3)).dates
    assert [each.event_date for each in done] == ["2026-01-01", "2026-01-02"]


def test_a_large_date_becomes_several_files_that_are_left_alone_later(engine: Engine, log: EventLog) -> None:
    names = [f"{number:05}" for number in range(9_000)]
    _append(engine, log, _table(names[:5_000]), _table(names[4_000:]))
    (done,) = _compact(engine, log, file_bytes=1, batch_rows=2_048).dates
    assert done.files_after > 2
    assert done.events == 9_000
    assert [row[0] for row in _read(log)] == names
    assert _compact(engine, log, file_bytes=1).dates == []


def test_columns_of_modalities_that_are_gone_are_kept(engine: Engine, log: EventLog) -> None:
    _append(engine, log, _table("a", page="kept"), _table("b", page="kept"))
    other = ModalitySpec(text="{shop}", fields={"shop": FieldSpec(type="text")})
    _compact(engine, EventLog(log.root, Workspace(Path(), 90, {"pay": other}, {})))
    assert _read(log) == [("a", "kept"), ("b", "kept")]


def test_a_field_that_changed_its_type_keeps_its_values(engine: Engine, log: EventLog) -> None:
    _append(engine, log, _table("a", page="2.5"))
    number = ModalitySpec(text="visit", fields={"page": FieldSpec(type="number")})
    newer = EventLog(log.root, Workspace(Path(), 90, {"visit": number}, {}))
    table = _table("b").set_column(4, "page", pa.array([0.1]))
    _append(engine, newer, table)
    _compact(engine, newer)
    assert _read(newer) == [("a", 2.5), ("b", 0.1)]


def test_files_that_the_ledger_does_not_know_are_left_alone(engine: Engine, log: EventLog) -> None:
    _append(engine, log, _table("a"), _table("b"))
    foreign = log.root / "event_date=2026-01-01" / "copied.parquet"
    pq.write_table(_table("c"), foreign)
    assert _compact(engine, log, grace=_AT_ONCE).unknown == 1
    assert [row[0] for row in _read(log)] == ["a", "b", "c"]


def test_of_two_compactions_of_one_date_the_second_changes_nothing(
    engine: Engine, log: EventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    _append(engine, log, _table("a"), _table("b"))
    replace = ledger.replace_files

    def overtaken(*given: Any) -> bool:
        monkeypatch.setattr(ledger, "replace_files", replace)
        _compact(engine, log)
        return replace(*given)

    monkeypatch.setattr(ledger, "replace_files", overtaken)
    summary = _compact(engine, log)
    assert (summary.dates, summary.contended) == ([], ["2026-01-01"])
    assert len(log.files()) == 1
    assert list(log.root.glob("_staging/*.parquet")) == []
    assert _read(log) == [("a", "p"), ("b", "p")]


def test_an_append_between_the_plan_and_the_replacement_is_kept(
    engine: Engine, log: EventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    _append(engine, log, _table("a"), _table("b"))
    replace = ledger.replace_files

    def late(*given: Any) -> bool:
        _append(engine, log, _table("c"))
        return replace(*given)

    monkeypatch.setattr(ledger, "replace_files", late)
    _compact(engine, log, grace=_AT_ONCE)
    assert [row[0] for row in _read(log)] == ["a", "b", "c"]


def test_a_writer_that_confirms_its_renames_late_does_not_bring_a_replaced_file_back(
    engine: Engine, log: EventLog
) -> None:
    _append(engine, log, _table("a"), _table("b"))
    assert log.unconfirmed
    _compact(engine, log)
    settle(engine, log)
    recover(engine, log)
    assert len(ledger.replaced_files(engine)) == 2
    assert len(log.files()) == 1


def test_a_full_disk_is_named_and_leaves_nothing_staged(
    engine: Engine, log: EventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    _append(engine, log, _table("a"), _table("b"))
    with monkeypatch.context() as patch:
        patch.setattr("pyarrow.parquet.ParquetWriter.write_batch", _no_space)
        with pytest.raises(DiskFull, match="no space left"):
            _compact(engine, log)
    assert list(log.root.glob("_staging/*.parquet")) == []
    assert _read(log) == [("a", "p"), ("b", "p")]


def _no_space(*_: Any) -> None:
    raise OSError(28, "No space left on device")
