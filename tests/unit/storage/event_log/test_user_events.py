"""A few users' events, read once, are what the whole log shows of them."""

import os
from collections.abc import Sequence
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from qanchor.errors import NotReady
from qanchor.events.activity import activity_table, profile_table
from qanchor.events.history import load_event_arrays
from qanchor.storage.event_log import EventLog, LogRows
from tests.unit.embedding.world import day, make_workspace

_BILL = {"modality": "bill", "shop": "corner", "amount": 5.0}


@pytest.fixture
def log(tmp_path: Path) -> EventLog:
    return EventLog(tmp_path / "events", make_workspace(tmp_path / "repo"))


def _add(log: EventLog, rows: Sequence[tuple[str, str, float, float]], **changes: Any) -> None:
    """Append (event_id, user, day, day of arrival) events."""
    table = pa.Table.from_pylist(
        [
            {**_BILL, "event_id": name, "user_id": user, "event_time": day(at), "_ingested_at": day(came)}
            | changes
            for name, user, at, came in rows
        ],
        schema=log.schema,
    )
    log.publish(log.stage(table))
    log.close()


def _rows(source: Any, users: Sequence[str]) -> list[tuple[Any, ...]]:
    with source.connect() as connection:
        connection.register("few", pa.table({"user_id": list(users)}))
        query = "SELECT * FROM events SEMI JOIN few USING (user_id) ORDER BY ALL"
        found: list[tuple[Any, ...]] = connection.execute(query).fetchall()
    return found


def test_repeats_count_once_even_where_the_first_is_another_users(log: EventLog) -> None:
    _add(log, [("a", "ann", 1, 2), ("b", "bob", 1, 2), ("c", "ann", 3, 3)])
    _add(log, [("a", "ann", 1, 9), ("b", "ann", 5, 9), ("c", "bob", 1, 1), ("d", "ann", 4, 4)])
    with closing(LogRows(log)) as rows:
        found = rows.of_users(["ann"])
        # "b" is bob's, because his came first; so is "c".
        assert [row[:2] for row in _rows(found, ["ann"])] == [("a", "ann"), ("d", "ann")]
        assert _rows(found, ["ann"]) == _rows(log, ["ann"])


def test_histories_activity_and_profile_are_those_of_the_whole_log(log: EventLog) -> None:
    _add(log, [(f"{user}{at}", user, at, at) for user in ("ann", "bob", "cyd") for at in range(1, 120, 7)])
    card = {"modality": "card", "shop": None, "amount": None, "band": "young"}
    _add(log, [("card", "ann", 2, 2), ("card2", "bob", 2, 2)], **card)
    users, workspace = ["ann", "cyd"], log.workspace
    requests = pa.table({"user_id": users, "as_of": [day(100), day(110)]})
    with closing(LogRows(log)) as rows:
        few = rows.of_users(users)
        for make in (activity_table, profile_table):
            assert make(few, workspace, requests).equals(make(log, workspace, requests))
        one, other = (
            load_event_arrays(source, workspace, before=day(100), users=users) for source in (few, log)
        )
    assert (one.users.tolist(), one.texts) == (other.users.tolist(), other.texts)
    for mine, theirs in zip(one.modalities, other.modalities, strict=True):
        assert [mine.time.tolist(), mine.offsets.tolist()] == [theirs.time.tolist(), theirs.offsets.tolist()]


def test_users_are_found_by_when_their_events_arrived_or_happened(log: EventLog) -> None:
    _add(log, [("a", "ann", 1, 2), ("b", "bob", 1, 9), ("c", "cyd", 3, 9), ("d", "dan", 3, 8)])
    with closing(LogRows(log)) as rows:
        users, last = rows.arrived(day(5), before=day(2))
        assert (users.to_pylist(), last) == (["bob"], day(9))
        assert rows.arrived(day(9), before=day(4))[0].to_pylist() == []
        assert rows.between(day(1), day(3)).to_pylist() == ["ann", "bob"]
        assert rows.between(day(1.5), day(3.5)).to_pylist() == ["cyd", "dan"]
        assert (rows.newest(), rows.newest().utcoffset()) == (day(3), timedelta(0))


def test_files_that_are_older_than_an_arrival_are_not_opened(
    log: EventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = datetime.now(UTC)
    _add(log, [("a", "ann", 1, 2)])
    old = log.files()[0]
    os.utime(old, ((now - timedelta(days=2)).timestamp(),) * 2)
    _add(log, [("b", "bob", 2, 2)], _ingested_at=now)
    opened: list[Path] = []
    read = log.stored_rows

    def noted(connection: Any, files: Sequence[Path]) -> str:
        opened.extend(files)
        return read(connection, files)

    monkeypatch.setattr(log, "stored_rows", noted)
    with closing(LogRows(log)) as rows:
        assert rows.arrived(now - timedelta(hours=1), before=day(9))[0].to_pylist() == ["bob"]
    assert opened
    assert old not in opened


def test_nobody_has_no_events(log: EventLog) -> None:
    _add(log, [("a", "ann", 1, 2)])
    with closing(LogRows(log)) as rows:
        assert _rows(rows.of_users([]), ["ann"]) == []


def test_an_empty_log_is_named(log: EventLog) -> None:
    with closing(LogRows(log)) as rows, pytest.raises(NotReady, match="event log is empty"):
        rows.newest()
