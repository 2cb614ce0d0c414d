from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import duckdb
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qanchor.events.activity import activity_table
from qanchor.events.rolling import RollingActivity
from qanchor.storage.event_log import log_schema
from tests.unit.events.test_activity import WORKSPACE

_T = datetime(2026, 3, 29, 12, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
# event_id, user, time, modality, amount
Event = tuple[int, str, datetime, str, float | None]


class GrowingLog:
    """A log in memory that says each event_id once: the first that came counts."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.scans = 0

    def table(self, events: Sequence[Event]) -> pa.Table:
        columns: dict[str, list[Any]] = {name: [] for name in log_schema(WORKSPACE).names}
        for number, user, moment, modality, amount in events:
            row = {"event_id": f"e{number}", "user_id": user, "event_time": moment, "modality": modality}
            row["paid" if modality == "pay" else "limit"] = amount
            for name, column in columns.items():
                column.append(row.get(name))
        return pa.table(columns, schema=log_schema(WORKSPACE))

    def append(self, events: Sequence[Event]) -> pa.Table:
        self.events += events
        return self.table(events)

    def connect(self) -> duckdb.DuckDBPyConnection:
        self.scans += 1
        first = {event[0]: event for event in reversed(self.events)}
        connection = duckdb.connect(config={"threads": 1})
        connection.execute("SET TimeZone = 'UTC'")
        connection.register("events", self.table(list(first.values())))
        return connection


def _rows(table: pa.Table) -> dict[str, dict[str, Any]]:
    return {row["user_id"]: row for row in table.to_pylist()}


def _assert_equals_the_view(log: GrowingLog, served: dict[str, dict[str, Any]]) -> None:
    """Each served row is the activity view's row of that user as of its own moment."""
    users = sorted(served)
    moments = pa.array([served[user]["event_timestamp"] for user in users], pa.timestamp("us", "UTC"))
    requests = pa.table({"user_id": pa.array(users, pa.string()), "as_of": moments})
    for user, expected in _rows(activity_table(log, WORKSPACE, requests)).items():
        columns = WORKSPACE.activity_columns
        assert {n: served[user][n] for n in columns} == pytest.approx({n: expected[n] for n in columns})


def _floors(served: dict[str, dict[str, Any]]) -> dict[str, int]:
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    return {user: (row["event_timestamp"] - epoch) // _MICROSECOND for user, row in served.items()}


_MOMENTS = st.one_of(
    st.integers(-200, 3).map(lambda days: _T + timedelta(days=days)),
    st.integers(-3, 3).map(lambda us: _T - timedelta(days=90) + timedelta(microseconds=us)),
    st.integers(-3, 3).map(lambda us: _T + timedelta(microseconds=us)),
)
_EVENTS = st.tuples(
    st.integers(0, 10_000),
    st.sampled_from("abcd"),
    _MOMENTS,
    st.sampled_from(["pay", "pay_count"]),
    st.one_of(st.none(), st.integers(-9, 9).map(float)),
)


@st.composite
def _histories(draw: st.DrawFn) -> list[list[Event]]:
    """Batches in the order they came: late events, and events that were sent again."""
    events = draw(st.lists(_EVENTS, min_size=1, max_size=25, unique_by=lambda event: event[0]))
    again = draw(st.lists(st.sampled_from(events), max_size=6))
    stream = events + again
    cuts = sorted(draw(st.lists(st.integers(0, len(stream)), max_size=5)))
    return [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]


@pytest.mark.parametrize("most", [10_000, 40, 0])
@settings(max_examples=12, deadline=None)
@given(batches=_histories(), loaded=st.integers(0, 2))
def test_every_row_equals_the_batch_view_as_of_its_moment(
    most: int, batches: list[list[Event]], loaded: int
) -> None:
    log = GrowingLog()
    rolling = RollingActivity(log, WORKSPACE, most)
    served: dict[str, dict[str, Any]] = {}
    for batch in batches[:loaded]:
        log.append(batch)  # by another process, before this one began
    for batch in batches[loaded:]:
        users = rolling.add(log.append(batch))
        rows = _rows(rolling.features(users, _floors(served)))
        assert set(rows) == set(users)
        for user, row in rows.items():
            assert user not in served or row["event_timestamp"] > served[user]["event_timestamp"]
        served |= rows
    _assert_equals_the_view(log, served)  # of the whole log: whoever had an event since has a new row


def test_the_moment_is_just_after_the_newest_event_and_never_goes_back() -> None:
    log = GrowingLog()
    rolling = RollingActivity(log, WORKSPACE, 100)
    rolling.add(log.append([(1, "a", _T, "pay", 5.0)]))
    first = _rows(rolling.features(["a"], {}))
    assert first["a"]["event_timestamp"] == _T + _MICROSECOND
    assert first["a"]["act_pay_sum_1d"] == 5.0
    rolling.add(log.append([(2, "a", _T - timedelta(hours=3), "pay", 2.0)]))  # late
    second = _rows(rolling.features(["a"], _floors(first)))
    assert second["a"]["event_timestamp"] == _T + 2 * _MICROSECOND
    assert second["a"]["act_pay_sum_1d"] == 7.0


def test_a_row_of_a_later_moment_is_continued_from_there() -> None:
    log = GrowingLog()
    rolling = RollingActivity(log, WORKSPACE, 100)
    rolling.add(log.append([(1, "a", _T, "pay", 5.0)]))
    backfilled = {"a": {"event_timestamp": _T + timedelta(days=3)}}
    row = _rows(rolling.features(["a"], _floors(backfilled)))["a"]
    assert row["event_timestamp"] == _T + timedelta(days=3) + _MICROSECOND
    assert (row["act_pay_sum_1d"], row["act_pay_sum_7d"]) == (0.0, 5.0)


def test_users_beyond_the_bound_are_forgotten_and_read_again() -> None:
    log = GrowingLog()
    rolling = RollingActivity(log, WORKSPACE, 60)
    for user in "abcdef":
        rolling.add(log.append([(10 * ord(user) + i, user, _T, "pay", 1.0) for i in range(10)]))
        assert _rows(rolling.features([user], {}))[user]["act_pay_count_1d"] == 10.0
        assert rolling._size <= 60
    scans = log.scans
    assert _rows(rolling.features(["a"], {}))["a"]["act_pay_count_1d"] == 10.0
    assert log.scans == scans + 1


def test_new_users_of_a_log_that_is_wholly_known_cost_no_scan() -> None:
    log = GrowingLog()
    rolling = RollingActivity(log, WORKSPACE, 1_000)
    log.append([(1, "old", _T - timedelta(days=5), "pay", 1.0)])
    for number, user in enumerate(["new", "newer", "old"], start=2):
        rolling.features(rolling.add(log.append([(number, user, _T, "pay", 1.0)])), {})
    assert log.scans == 1
    assert _rows(rolling.features(["old"], {}))["old"]["act_pay_count_7d"] == 2.0


def test_events_older_than_every_window_are_dropped_but_the_newest_of_each_kind() -> None:
    log = GrowingLog()
    rolling = RollingActivity(log, WORKSPACE, 1_000)
    old = [(i, "a", _T - timedelta(days=100 + i), "pay", 1.0) for i in range(5)]
    rolling.add(log.append([*old, (9, "a", _T, "pay_count", 1.0)]))
    row = _rows(rolling.features(["a"], {}))["a"]
    assert row["act_pay_recency_days"] == pytest.approx(100, abs=1e-6)
    assert len(rolling._users["a"]) == 2


def test_an_unknown_user_has_no_row() -> None:
    rolling = RollingActivity(GrowingLog(), WORKSPACE, 10)
    assert len(rolling.features(["nobody"], {})) == 0
