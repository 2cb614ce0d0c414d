from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import duckdb
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qanchor.aggregates import ACTIVITY_WINDOWS_DAYS
from qanchor.events.activity import activity_table, profile_table
from qanchor.storage.event_log import EventLog, log_schema
from qanchor.workspace import FieldSpec, ModalitySpec, Workspace

_T = datetime(2026, 3, 29, 12, tzinfo=UTC)
_PAY = ModalitySpec(
    text="{shop}", fields={"shop": FieldSpec(type="text"), "paid": FieldSpec(type="number", amount=True)}
)
_CARD = ModalitySpec(
    text="{tier}",
    profile=True,
    fields={"tier": FieldSpec(type="text"), "limit": FieldSpec(type="number"), "no": FieldSpec(type="key")},
)
# A name that begins like another modality's columns must not be taken for it.
WORKSPACE = Workspace(Path("/nowhere"), 90, {"pay": _PAY, "pay_count": _CARD}, {})
Event = tuple[str, datetime, str, float]
Request = tuple[str, datetime]


class TableLog:
    """An event log of rows in memory."""

    def __init__(self, events: Sequence[Event]) -> None:
        columns: dict[str, list[Any]] = {name: [] for name in log_schema(WORKSPACE).names}
        for number, (user, moment, modality, value) in enumerate(events):
            row = {"event_id": f"e{number:04d}", "user_id": user, "event_time": moment, "modality": modality}
            row |= {"paid": value} if modality == "pay" else {"limit": value, "tier": f"tier{number}"}
            for name, column in columns.items():
                column.append(row.get(name))
        self._table = pa.table(columns, schema=log_schema(WORKSPACE))

    def connect(self) -> duckdb.DuckDBPyConnection:
        connection = duckdb.connect(config={"threads": 1})
        connection.execute("SET TimeZone = 'UTC'")
        connection.register("events", self._table)
        return connection


def request_table(requests: Sequence[Request]) -> pa.Table:
    users, moments = zip(*requests, strict=True) if requests else ((), ())
    return pa.table(
        {"user_id": pa.array(users, pa.string()), "as_of": pa.array(moments, pa.timestamp("us", "UTC"))}
    )


def _activity(events: Sequence[Event], requests: Sequence[Request]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = activity_table(
        cast(EventLog, TableLog(events)), WORKSPACE, request_table(requests)
    ).to_pylist()
    return rows


def _profile(events: Sequence[Event], requests: Sequence[Request]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = profile_table(
        cast(EventLog, TableLog(events)), WORKSPACE, request_table(requests)
    ).to_pylist()
    return rows


def _slowly(events: Sequence[Event], user: str, as_of: datetime) -> dict[str, float | None]:
    result: dict[str, float | None] = {}
    for modality in ("pay", "pay_count"):
        past = [e for e in events if e[0] == user and e[2] == modality and e[1] < as_of]
        for days in ACTIVITY_WINDOWS_DAYS:
            inside = [e for e in past if e[1] >= as_of - timedelta(days=days)]
            result[f"act_{modality}_count_{days}d"] = float(len(inside))
            if modality == "pay":
                result[f"act_pay_sum_{days}d"] = sum(e[3] for e in inside)
        last = max((e[1] for e in past), default=None)
        result[f"act_{modality}_recency_days"] = None if last is None else (as_of - last) / timedelta(days=1)
    return result


MOMENTS = st.one_of(
    st.integers(-100, 100).map(lambda days: _T + timedelta(days=days)),
    st.integers(-3, 3).map(lambda us: _T + timedelta(microseconds=us)),
)
EVENTS = st.lists(
    st.tuples(
        st.sampled_from("ab"), MOMENTS, st.sampled_from(["pay", "pay_count"]), st.integers(-9, 9).map(float)
    ),
    max_size=12,
)


@settings(max_examples=10, deadline=None)
@given(EVENTS, st.lists(st.tuples(st.sampled_from("abc"), MOMENTS), min_size=1, max_size=5))
def test_activity_equals_a_slow_loop(events: list[Event], requests: list[Request]) -> None:
    for row, (user, as_of) in zip(_activity(events, requests), requests, strict=True):
        assert (row["user_id"], row["event_timestamp"], row["created"]) == (user, as_of, as_of)
        expected = _slowly(events, user, as_of)
        assert {name: row[name] for name in WORKSPACE.activity_columns} == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("late", [timedelta(0), timedelta(microseconds=1), timedelta(days=3)])
def test_an_event_at_or_after_the_moment_changes_nothing(late: timedelta) -> None:
    past: list[Event] = [
        ("a", _T - timedelta(days=2), "pay", 5.0),
        ("a", _T - timedelta(days=3), "pay_count", 1.0),
    ]
    leak: list[Event] = [("a", _T + late, "pay", 1e6), ("a", _T + late, "pay_count", 1e6)]
    requests = [("a", _T)]
    assert _activity(past + leak, requests) == _activity(past, requests)
    assert _profile(past + leak, requests) == _profile(past, requests)


def test_the_profile_is_the_newest_event_before_the_moment() -> None:
    events: list[Event] = [
        ("a", _T - timedelta(days=400), "pay_count", 1.0),
        ("a", _T - timedelta(days=4), "pay_count", 2.0),
        ("a", _T - timedelta(days=1), "pay", 9.0),
    ]
    rows = _profile(events, [("a", _T), ("b", _T), ("a", _T - timedelta(days=4)), ("a", _T)])
    assert [row["prof_limit"] for row in rows] == [2.0, None, 1.0, 2.0]
    assert [row["prof_tier"] for row in rows] == ["tier1", None, "tier0", "tier1"]
    assert "prof_no" not in rows[0]


def test_no_requests_give_no_rows_but_every_column() -> None:
    table = activity_table(cast(EventLog, TableLog([])), WORKSPACE, request_table([]))
    assert len(table) == 0
    assert table.column_names == ["user_id", "event_timestamp", "created", *WORKSPACE.activity_columns]


def test_an_empty_log_gives_zero_counts_and_no_recency() -> None:
    (row,) = _activity([], [("a", _T)])
    assert row["act_pay_count_90d"] == 0.0
    assert row["act_pay_sum_1d"] == 0.0
    assert row["act_pay_recency_days"] is None


def test_a_moment_without_a_zone_is_utc() -> None:
    events: list[Event] = [("a", _T - timedelta(microseconds=1), "pay", 3.0)]
    naive = pa.table({"user_id": ["a"], "as_of": pa.array([_T.replace(tzinfo=None)], pa.timestamp("us"))})
    table = activity_table(cast(EventLog, TableLog(events)), WORKSPACE, naive)
    assert table["act_pay_sum_1d"].to_pylist() == [3.0]
    assert table["event_timestamp"].to_pylist() == [_T]


def test_without_a_profile_modality_there_are_keys_alone() -> None:
    workspace = Workspace(Path("/nowhere"), 90, {"pay": _PAY}, {})
    table = profile_table(cast(EventLog, TableLog([])), workspace, request_table([("a", _T)]))
    assert table.column_names == ["user_id", "event_timestamp", "created"]
