"""Ranges of users: read one by one, they are what one read of everything is."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qanchor.errors import DiskFull
from qanchor.events.history import EventArrays, load_event_arrays
from qanchor.storage.event_log import UserRange, sort_by_user
from qanchor.workspace import FieldSpec, ModalitySpec, Workspace

START = datetime(2024, 1, 1, tzinfo=UTC)
WORKSPACE = Workspace(
    Path(),
    10,
    {
        "pay": ModalitySpec(
            text="paid {shop}",
            max_events=3,
            fields={
                "shop": FieldSpec(type="text"),
                "amount": FieldSpec(type="number", optional=True),
                "receipt": FieldSpec(type="key"),
            },
        ),
        "visit": ModalitySpec(text="{page}", max_events=2, fields={"page": FieldSpec(type="text")}),
    },
    {},
)
IDS = ("Ada", "Zoë", "b'ob", "o\u00f6", "u1", "u10", "u2", "\u6f22")


class TableLog:
    """A table of events as an event source that counts its reads."""

    def __init__(self, table: pa.Table) -> None:
        self.table = table
        self.reads = 0

    def connect(self) -> Any:
        self.reads += 1
        connection = duckdb.connect()
        connection.execute("SET TimeZone='UTC'")
        connection.register("events", self.table)
        return connection


def events_of(users: list[tuple[str, int]]) -> pa.Table:
    """Events of (user, hour), payments and visits in turn, some at the same moment."""
    paid = [number % 2 == 0 for number in range(len(users))]
    return pa.table(
        {
            "event_id": [f"e{(number * 7919) % 1000:03d}" for number in range(len(users))],
            "user_id": pa.array([user for user, _ in users], pa.string()),
            "event_time": pa.array([START + timedelta(hours=h) for _, h in users], pa.timestamp("us", "UTC")),
            "modality": pa.array(["pay" if p else "visit" for p in paid], pa.string()),
            "shop": pa.array([f"shop {h % 3}" if p else None for p, (_, h) in zip(paid, users, strict=True)]),
            "page": pa.array([None if p else f"page {h % 2}" for p, (_, h) in zip(paid, users, strict=True)]),
            "amount": pa.array([float(h) if p else None for p, (_, h) in zip(paid, users, strict=True)]),
            "receipt": pa.array(["r"] * len(users), pa.string()),
        },
    ).cast(
        pa.schema(
            [
                *((name, pa.string()) for name in ("event_id", "user_id")),
                ("event_time", pa.timestamp("us", "UTC")),
                *((name, pa.string()) for name in ("modality", "shop", "page")),
                ("amount", pa.float64()),
                ("receipt", pa.string()),
            ]
        )
    )


def contents(arrays: EventArrays) -> dict[str, list[Any]]:
    """Every user's events in order."""
    found: dict[str, list[Any]] = {}
    for row, user in enumerate(arrays.users):
        found[user] = [
            (part.name, int(part.time[i]), arrays.texts[part.text[i]], str(part.numbers[i].tolist()))
            for part in arrays.modalities
            for i in range(int(part.offsets[row]), int(part.offsets[row + 1]))
        ]
    return found


@settings(max_examples=15, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(IDS), st.integers(0, 40)), max_size=40),
    st.sets(st.sampled_from(IDS), min_size=1),
)
def test_the_ranges_together_are_the_log(
    tmp_path_factory: pytest.TempPathFactory, users: list[tuple[str, int]], some: set[str]
) -> None:
    log, firsts = TableLog(events_of(users)), sorted({min(IDS), *some})
    before, after = START + timedelta(hours=30), START + timedelta(hours=5)
    folder = tmp_path_factory.mktemp("ranges") / "sorted"
    ranges = sort_by_user(log, WORKSPACE, folder, firsts, before=before, after=after)
    _require_whole(ranges, log, firsts, before, after)


@settings(max_examples=30, deadline=None)
@given(
    users=st.lists(st.tuples(st.sampled_from(IDS), st.integers(0, 50)), min_size=1, max_size=40),
    some=st.sets(st.sampled_from(IDS)),
    rows=st.integers(1, 12),
)
def test_files_that_are_sorted_by_user_are_only_linked(
    tmp_path_factory: pytest.TempPathFactory, users: list[tuple[str, int]], some: set[str], rows: int
) -> None:
    log, firsts = TableLog(events_of(users)), sorted({min(IDS), *some})
    before, after = START + timedelta(hours=30), START + timedelta(hours=5)
    place = tmp_path_factory.mktemp("parts")
    ordered = log.table.sort_by("user_id")
    files = [place / f"{start:03d}.parquet" for start in range(0, len(ordered), rows)]
    for number, path in enumerate(files):
        pq.write_table(ordered.slice(number * rows, rows), path)
    ranges = sort_by_user(files, WORKSPACE, place / "links", firsts, before=before, after=after)
    _require_whole(ranges, log, firsts, before, after)


def _require_whole(
    ranges: list[UserRange], log: TableLog, firsts: list[str], before: datetime, after: datetime
) -> None:
    assert len(ranges) == len(firsts)
    expected = contents(load_event_arrays(log, WORKSPACE, before=before, after=after))
    together: dict[str, list[Any]] = {}
    for part, low, high in zip(ranges, firsts, [*firsts[1:], "\U0010ffff"], strict=True):
        found = contents(load_event_arrays(part, WORKSPACE))
        assert all(low <= user < high for user in found)
        together |= found
    assert together == expected


def test_the_log_is_read_once_and_finished_files_are_left_alone(tmp_path: Path) -> None:
    log = TableLog(events_of([(user, hour) for user in IDS for hour in range(4)]))
    first = sort_by_user(log, WORKSPACE, tmp_path / "sorted", sorted(IDS))
    again = sort_by_user(log, WORKSPACE, tmp_path / "sorted", sorted(IDS))
    assert (log.reads, first) == (1, again)


class FullDisk(TableLog):
    """A log that DuckDB has no space to sort."""

    def connect(self) -> Any:
        raise duckdb.IOException("Could not write file: No space left on device")


def test_a_sort_that_fails_leaves_nothing_and_says_why(tmp_path: Path) -> None:
    with pytest.raises(DiskFull, match="no space left to write"):
        sort_by_user(FullDisk(events_of([("Ada", 1)])), WORKSPACE, tmp_path / "sorted", ["Ada"])
    assert list(tmp_path.iterdir()) == []


def test_fields_that_no_model_reads_stay_behind(tmp_path: Path) -> None:
    part = sort_by_user(TableLog(events_of([("Ada", 1)])), WORKSPACE, tmp_path / "sorted", ["Ada"])[0]
    columns = [row[0] for row in part.connect().execute("DESCRIBE events").fetchall()]
    assert columns == ["event_id", "user_id", "event_time", "modality", "shop", "amount", "page"]
    assert np.array_equal(load_event_arrays(part, WORKSPACE).users, np.array(["Ada"], dtype=object))
