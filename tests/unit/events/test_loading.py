import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sqlalchemy import Engine

from qanchor.errors import DatabaseUnavailable, EventsInvalid
from qanchor.events.loading import EventLoader
from qanchor.events.quality import EventChecker
from qanchor.registry import ledger
from qanchor.registry.ledger import LedgerEntry, OffsetRanges, next_offsets
from qanchor.storage.event_log import EventLog, append, recover
from tests.unit.events.files import WORKSPACE, as_table, make_decoder, payment, visit, write_parquet


class Killed(BaseException):
    """Stands for kill -9: nothing may catch it to tidy up."""


def _log(tmp_path: Path) -> EventLog:
    return EventLog(tmp_path / "events", WORKSPACE)


def _loader(tmp_path: Path, engine: Engine, **options: Any) -> EventLoader:
    return EventLoader(engine, _log(tmp_path), make_decoder(), tmp_path / "dead", **options)


def _count(log: EventLog) -> int:
    with log.connect() as connection:
        return int(connection.execute("SELECT count(*) FROM events").fetchall()[0][0])


def _events(count: int) -> Any:
    return EventChecker(make_decoder()).check(as_table([payment(f"u{i}", i) for i in range(count)])).table


def test_an_append_is_rows_and_offsets(tmp_path: Path, engine: Engine) -> None:
    log = _log(tmp_path)
    assert append(engine, log, _events(30), OffsetRanges("g", "t", {0: (0, 30)})) == 30
    assert (_count(log), next_offsets(engine, "g", "t")) == (30, {0: 30})


def _kill_before(monkeypatch: pytest.MonkeyPatch, target: Any, name: str) -> None:
    def killed(*_: Any) -> None:
        raise Killed

    monkeypatch.setattr(target, name, killed)


def _killed_after_commit(engine: Engine, entry: LedgerEntry) -> None:
    ledger.__dict__["_real_commit"](engine, entry)
    raise Killed


@pytest.mark.parametrize(
    ("point", "survives"), [("stage", False), ("commit", False), ("committed", True), ("publish", True)]
)
def test_a_kill_at_any_point_leaves_all_or_nothing(
    tmp_path: Path, engine: Engine, monkeypatch: pytest.MonkeyPatch, point: str, survives: bool
) -> None:
    victim = _log(tmp_path)
    monkeypatch.setattr(victim, "discard", lambda _: None)  # kill -9 tidies nothing up
    with monkeypatch.context() as patch:
        if point == "stage":
            _kill_before(patch, ledger, "commit_entry")
            patch.setattr("qanchor.storage.event_log.log.sync_all", lambda _: (_ for _ in ()).throw(Killed))
        elif point == "commit":
            _kill_before(patch, ledger, "commit_entry")
        elif point == "committed":
            patch.setitem(ledger.__dict__, "_real_commit", ledger.commit_entry)
            patch.setattr(ledger, "commit_entry", _killed_after_commit)
        else:
            renamed = Path.rename

            def once(path: Path, target: Path) -> Path:
                patch.setattr(Path, "rename", lambda *_: (_ for _ in ()).throw(Killed))
                return renamed(path, target)

            patch.setattr(Path, "rename", once)
        with pytest.raises(Killed):
            append(engine, victim, _events(30), OffsetRanges("g", "t", {0: (0, 30)}))
    held = victim._lock._held
    assert held is not None
    held()  # the kernel frees a dead process's lock
    heir = _log(tmp_path)
    recover(engine, heir)
    assert _count(heir) == (30 if survives else 0)
    assert next_offsets(engine, "g", "t") == ({0: 30} if survives else {})
    assert list((tmp_path / "events" / "_staging").glob("*.parquet")) == []
    assert ledger.committed_files(engine) == {}


def test_after_a_database_failure_nothing_is_lost_that_was_committed(
    tmp_path: Path, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, commit = _log(tmp_path), ledger.commit_entry

    def commits_but_fails(engine: Engine, entry: LedgerEntry) -> None:
        commit(engine, entry)
        raise DatabaseUnavailable("the connection broke", "Try again.")

    with monkeypatch.context() as patch:
        patch.setattr(ledger, "commit_entry", commits_but_fails)
        with pytest.raises(DatabaseUnavailable):
            append(engine, log, _events(5))
    recover(engine, log)
    assert _count(log) == 5


def test_loading_a_file_twice_adds_its_events_once(tmp_path: Path, engine: Engine) -> None:
    path = write_parquet(tmp_path / "e.parquet", [payment(), payment(), visit("u2", 30)])
    first = _loader(tmp_path, engine).load(path)
    second = _loader(tmp_path, engine).load(path)
    assert (first.accepted, first.modalities) == (3, {"pay": 2, "visit": 1})
    assert second.loaded_before is not None
    assert _count(_log(tmp_path)) == 3


def test_the_same_events_in_another_file_add_nothing(tmp_path: Path, engine: Engine) -> None:
    rows = [payment("a", 1), payment("b", 2), visit("c", 3)]
    _loader(tmp_path, engine).load(write_parquet(tmp_path / "e.parquet", rows))
    path = tmp_path / "e.csv"
    lines = ["user_id,event_time,modality,shop,amount,page,invoice"]
    lines += ["a,2026-01-01T01:00:00Z,pay,corner,5,,", "b,2026-01-01T02:00:00Z,pay,corner,5.0,,"]
    lines += [f"{user},2026-01-01T03:00:00Z,visit,,,home,i1" for user in "cd"]
    path.write_text("\n".join(lines))
    summary = _loader(tmp_path, engine).load(path)
    assert (summary.accepted, summary.repeated) == (1, 3)
    assert _count(_log(tmp_path)) == 4


def test_refused_rows_lie_in_a_dead_letter_file(tmp_path: Path, engine: Engine) -> None:
    path = write_parquet(tmp_path / "e.parquet", [payment(), payment(amount=-1), visit(page=None)])
    summary = _loader(tmp_path, engine).load(path)
    assert summary.rejected == {"out_of_range": 1, "missing_field": 1}
    assert summary.dead_letters is not None
    letters = [json.loads(line) for line in summary.dead_letters.read_text().splitlines()]
    assert [(line["row"], line["reason"], line["event"]["user_id"]) for line in letters] == [
        (2, "out_of_range", "u1"),
        (3, "missing_field", "u1"),
    ]


def test_a_torn_csv_line_is_a_dead_letter(tmp_path: Path, engine: Engine) -> None:
    path = tmp_path / "e.csv"
    path.write_text(
        'user_id,event_time,modality,page,invoice\nu,2026-01-01T00:00:00Z,visit,"a\nb",i\nu,visit\n'
    )
    summary = _loader(tmp_path, engine).load(path)
    assert (summary.accepted, summary.rejected, summary.rows) == (1, {"torn_line": 1}, 2)


def test_a_file_without_a_valid_event_adds_nothing_and_says_the_reason(
    tmp_path: Path, engine: Engine
) -> None:
    path = write_parquet(tmp_path / "e.parquet", [payment(event_time="2026-01-01T00:00:00")] * 3)
    with pytest.raises(EventsInvalid, match=r"naive_time in 3 of 3 rows.*--assume-utc"):
        _loader(tmp_path, engine).load(path)
    assert _count(_log(tmp_path)) == 0
    assert _loader(tmp_path, engine, assume_utc=True).load(path).accepted == 3


def test_a_load_that_was_killed_can_be_run_again(
    tmp_path: Path, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_parquet(tmp_path / "e.parquet", [payment(f"u{i}", i * 10) for i in range(20)])
    victim = _loader(tmp_path, engine)
    with monkeypatch.context() as patch:
        _kill_before(patch, Path, "rename")
        with pytest.raises(Killed):
            victim.load(path)
    again = _loader(tmp_path, engine).load(path)
    assert again.loaded_before is not None
    assert _count(_log(tmp_path)) == 20


ORDERS = [payment(f"u{i}", i, event_id=f"o{i}", amount=float(line)) for i in range(10) for line in range(5)]


def test_lines_with_the_id_of_their_order_are_named(tmp_path: Path, engine: Engine) -> None:
    summary = _loader(tmp_path, engine).load(write_parquet(tmp_path / "e.parquet", ORDERS))
    assert (summary.rows, summary.accepted, summary.rejected) == (50, 10, {"reused_id": 40})
    assert _count(_log(tmp_path)) == summary.accepted
    assert summary.dead_letters is not None
    letters = [json.loads(line) for line in summary.dead_letters.read_text().splitlines()]
    assert [line["row"] for line in letters] == [row for row in range(1, 51) if row % 5 != 1]
    assert "'o0' is that of another event" in letters[0]["detail"]
    assert "a field of type key" in letters[0]["detail"]


@pytest.mark.parametrize(
    "other",
    [payment("u2", event_id="7"), visit("u1", event_id="7"), payment("u1", 48, event_id="7")],
    ids=["another user", "another modality", "another date"],
)
@pytest.mark.parametrize("files", [1, 2])
def test_an_id_is_that_of_one_event(
    tmp_path: Path, engine: Engine, other: dict[str, Any], files: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qanchor.events.files.BATCH_ROWS", 1)  # batches know of each other
    rows = [payment("u1", event_id="7"), other, payment("u3", 1, event_id="8")]
    loader = _loader(tmp_path, engine)
    loaded = [
        loader.load(write_parquet(tmp_path / f"{i}.parquet", part))
        for i, part in enumerate([rows] if files == 1 else [rows[:1], rows[1:]])
    ]
    assert sum(summary.accepted for summary in loaded) == _count(_log(tmp_path)) == 2
    assert loaded[-1].rejected == {"reused_id": 1}


def test_an_event_that_comes_again_with_its_id_is_known(tmp_path: Path, engine: Engine) -> None:
    rows = [payment("u1", event_id="7"), payment("u1", event_id="7"), visit("u2", event_id="8")]
    loader = _loader(tmp_path, engine)
    first = loader.load(write_parquet(tmp_path / "1.parquet", rows))
    fuller = [{**rows[0], "note": "gift"}, visit("u2", 1, event_id="9")]  # the log's event has no note
    second = loader.load(write_parquet(tmp_path / "2.parquet", fuller))
    assert (first.accepted, first.repeated, first.rejected) == (2, 1, {})
    assert (second.accepted, second.repeated, second.rejected) == (1, 1, {})


@pytest.mark.parametrize("quoted", [False, True], ids=["plain", "all in quotes"])
@pytest.mark.parametrize(
    ("line", "torn", "detail"),
    [
        ("u49,2026-01-01T00:00:00Z,visit,\"home,i", 1, "line 51 opens a quote that nothing closes"),
        ("\"u49,2026-01-01T00:00:00Z,visit,home,i", 1, "line 51 opens a quote that nothing closes"),
        ("u49,2026-01-01T00:00:00Z,visit", 1, "another number of columns"),
        ("u49,2026-01-01T00:00:00Z,visit,\"ho\nme\",i", 0, ""),
        ("u49,2026-01-01T00:00:00Z,visit,\"a \"\"home\"\"\",i", 0, ""),
        ("u49,2026-01-01T00:00:00Z,visit,27\" screens,i", 0, ""),
        ("u49,2026-01-01T00:00:00Z,visit,\"home\" page,i", 0, ""),
    ],
)  # fmt: skip
def test_a_line_that_is_no_row_takes_no_other_with_it(
    tmp_path: Path, engine: Engine, quoted: bool, line: str, torn: int, detail: str
) -> None:
    page = '"home"' if quoted else "home"
    lines = [f"u{i},2026-01-01T00:00:00Z,visit,{page},i" for i in range(500)]
    lines[49] = line
    path = tmp_path / "e.csv"
    path.write_text("\n".join(["user_id,event_time,modality,page,invoice", *lines]))
    summary = _loader(tmp_path, engine).load(path)
    assert (summary.rows, summary.accepted, summary.rejected.total()) == (500, 500 - torn, torn)
    assert _count(_log(tmp_path)) == 500 - torn
    if torn:
        assert summary.dead_letters is not None
        letter = json.loads(summary.dead_letters.read_text())
        assert letter["reason"] == "torn_line" and detail in letter["detail"]
        assert letter["event"] == line


def test_lines_between_two_quotes_that_close_by_chance_are_read(tmp_path: Path, engine: Engine) -> None:
    lines = [f"u{i},2026-01-01T00:00:00Z,visit,home,i" for i in range(10)]
    lines[2] = '"u2,2026-01-01T00:00:00Z,visit,home,i'
    lines[5] = 'u5,2026-01-01T00:00:00Z,visit,27",i'
    path = tmp_path / "e.csv"
    path.write_text("\n".join(["user_id,event_time,modality,page,invoice", *lines]))
    summary = _loader(tmp_path, engine).load(path)
    assert (summary.rows, summary.accepted, summary.rejected) == (10, 9, {"torn_line": 1})
    assert _count(_log(tmp_path)) == 9


@pytest.mark.parametrize(
    "kind", [pa.timestamp("s"), pa.timestamp("ms"), pa.timestamp("us"), pa.date32(), pa.date64(), "int96"]
)
@pytest.mark.parametrize(
    ("years", "reason"), [(630, "in_the_future"), (-90_000, "too_old"), (250_000, "in_the_future")]
)
def test_times_of_far_years_are_out_of_range_by_name(
    tmp_path: Path, engine: Engine, kind: Any, years: int, reason: str
) -> None:
    days = 20_454 + years * 365
    if kind == "int96":
        days = min(days, 2_900_000) if years > 0 else -700_000
    per_day = {"s": 86_400, "ms": 86_400_000, "us": 86_400_000_000}
    kind = pa.timestamp("us") if (int96 := kind == "int96") else kind
    numbers = (
        [20_454, days]
        if kind == pa.date32()
        else [n * per_day[getattr(kind, "unit", "ms")] for n in (20_454, days)]
    )
    times = pa.array(numbers, pa.int32() if kind == pa.date32() else pa.int64()).view(kind)
    table = as_table([visit("u1"), visit("u2")])
    path = tmp_path / "e.parquet"
    pq.write_table(table.set_column(1, "event_time", times), path, use_deprecated_int96_timestamps=int96)
    summary = _loader(tmp_path, engine, assume_utc=True).load(path)
    assert (summary.accepted, summary.rejected) == (1, {reason: 1})


@pytest.mark.parametrize("extra", [float("nan"), float("inf"), "x"])
def test_an_impossible_date_costs_no_other_row(tmp_path: Path, engine: Engine, extra: Any) -> None:
    rows = [
        visit(f"u{i}", event_time="2026-01-31T00:00:00Z", unnamed=extra, amount=extra) for i in range(100)
    ]
    rows[40]["event_time"] = "2026-02-30T00:00:00Z"
    summary = _loader(tmp_path, engine).load(write_parquet(tmp_path / "e.parquet", rows))
    assert (summary.accepted, summary.rejected) == (99, {"bad_time": 1})
