"""A few users' events, read once, are what the whole log shows of them."""

from collections.abc import Sequence
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from qanchor.errors import NotReady
from qanchor.events.activity import activity_table, profile_table
from qanchor.events.history import load_event_arrays
from qanchor.storage.event_log import EventLog
from qanchor.storage.user_events import LogRows
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


def test_users_are_found_by_what_their_rows_say(log: EventLog) -> None:
    _add(log, [("a", "ann", 1, 2), ("b", "bob", 1, 9), ("c", "cyd", 3, 9)])
    with closing(LogRows(log)) as rows:
        found = rows.users_where("event_time < ? AND _ingested_at > ?", [day(2), day(5)])
        assert found.to_pylist() == ["bob"]
        assert rows.newest() == (day(3), day(9))
        assert rows.newest()[0].utcoffset() == timedelta(0)


def test_nobody_has_no_events(log: EventLog) -> None:
    _add(log, [("a", "ann", 1, 2)])
    with closing(LogRows(log)) as rows:
        assert _rows(rows.of_users([]), ["ann"]) == []


def test_an_empty_log_is_named(log: EventLog) -> None:
    with closing(LogRows(log)) as rows, pytest.raises(NotReady, match="event log is empty"):
        rows.newest()
