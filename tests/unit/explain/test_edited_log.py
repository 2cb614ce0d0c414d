from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest

from qanchor.events.activity import activity_table
from qanchor.events.history import load_event_arrays
from qanchor.explain.event_effects import EditedLog, read_events
from tests.unit.model.worlds import HOUR, START, WORKSPACE, event_table

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
LATER = EPOCH + timedelta(microseconds=START + 35 * 24 * HOUR)


class Log:
    """A table of events as an event log."""

    def __init__(self, table: pa.Table) -> None:
        self._table = table

    def connect(self) -> object:
        import duckdb

        connection = duckdb.connect()
        connection.execute("SET TimeZone = 'UTC'")
        connection.register("given", self._table)
        connection.execute("CREATE VIEW events AS SELECT * FROM given")
        return connection


@pytest.fixture
def events() -> pa.Table:
    return read_events(Log(event_table(3, 4, 200)), WORKSPACE, ["u2"], LATER)


def test_only_the_events_of_the_users_before_the_moment_are_read() -> None:
    table = event_table(3, 4, 200)
    table_read = read_events(Log(table), WORKSPACE, ["u2", "u0", "nobody"], LATER)
    expected = {
        row["event_id"]
        for row in table.to_pylist()
        if row["user_id"] in ("u0", "u2") and row["event_time"] < LATER
    }
    assert set(table_read["event_id"].to_pylist()) == expected
    assert len(expected) < 200


def test_rows_are_in_the_order_of_the_arrays(events: pa.Table) -> None:
    arrays = load_event_arrays(EditedLog(events, [np.empty(0, np.int64)]), WORKSPACE)
    times = np.concatenate([part.time for part in arrays.modalities])
    micros = np.asarray(events["event_time"].cast(pa.int64()))
    np.testing.assert_array_equal(times, micros)
    texts = [arrays.texts[code] for part in arrays.modalities for code in part.text]
    assert [row["page"] for row in events.to_pylist() if row["modality"] == "visit"] == [
        text for text, row in zip(texts, events.to_pylist(), strict=True) if row["modality"] == "visit"
    ]


def test_each_copy_lacks_its_own_events_alone(events: pa.Table) -> None:
    left_out = [np.array(rows, dtype=np.int64) for rows in ([], [0], [1, 5, 7])]
    log = EditedLog(events, left_out)
    arrays = load_event_arrays(log, WORKSPACE)
    assert arrays.user_rows(log.users).tolist() == [0, 1, 2]
    held = sum(np.diff(part.offsets) for part in arrays.modalities)
    assert (events.num_rows - held).tolist() == [0, 1, 3]
    with log.connect() as connection:
        rows = connection.execute("SELECT user_id, event_id FROM events").fetchall()
    gone = {events["event_id"][row].as_py() for row in (1, 5, 7)}
    assert {event for user, event in rows if user == log.users[2]} == {
        event for event in events["event_id"].to_pylist() if event not in gone
    }


def test_aggregates_of_a_copy_are_those_of_the_events_that_it_keeps(events: pa.Table) -> None:
    log = EditedLog(events, [np.empty(0, np.int64), np.arange(events.num_rows)[::2]])
    moments = pa.array([LATER, LATER], pa.timestamp("us", tz="UTC"))
    aggregates = activity_table(log, WORKSPACE, pa.table({"user_id": log.users, "as_of": moments}))
    since = LATER - timedelta(days=30)
    kept = [row for number, row in enumerate(events.to_pylist()) if number % 2]
    visits = [row for row in kept if row["modality"] == "visit" and row["event_time"] >= since]
    assert aggregates["act_visit_count_30d"][1].as_py() == len(visits)
    assert aggregates["act_visit_count_30d"][0].as_py() > len(visits)
