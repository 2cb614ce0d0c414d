"""Histories: exactly what a slow loop over the events would keep, and never anything from the cut-off on."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qanchor.errors import EventsInvalid
from qanchor.events.history import (
    EventArrays,
    arrays_from_table,
    load_event_arrays,
    slice_histories,
)
from qanchor.times import to_microseconds
from qanchor.workspace import FieldSpec, ModalitySpec, Workspace

START = datetime(2024, 1, 1, tzinfo=UTC)
DAY = 86_400_000_000
PAY = ModalitySpec(
    text="paid {shop}, it's {kind}",
    max_events=3,
    fields={
        "shop": FieldSpec(type="text"),
        "kind": FieldSpec(type="text", optional=True),
        "amount": FieldSpec(type="number", optional=True, amount=True),
    },
)
VISIT = ModalitySpec(text="{page}", max_events=2, fields={"page": FieldSpec(type="text")})
WORKSPACE = Workspace(Path(), 10, {"pay": PAY, "visit": VISIT}, {})

Event = tuple[str, str, int, str, float | None]  # user, modality, hour, text, amount


def as_table(events: Sequence[Event], ids: Sequence[str] | None = None) -> pa.Table:
    names = [f"e{i:05d}" for i in range(len(events))] if ids is None else list(ids)
    return pa.table(
        {
            "event_id": pa.array(names, pa.string()),
            "user_id": pa.array([e[0] for e in events], pa.string()),
            "event_time": pa.array(
                [START + timedelta(hours=e[2]) for e in events], pa.timestamp("us", "UTC")
            ),
            "modality": pa.array([e[1] for e in events], pa.string()),
            "shop": pa.array([e[3] if e[1] == "pay" else None for e in events], pa.string()),
            "kind": pa.array([None] * len(events), pa.string()),
            "page": pa.array([e[3] if e[1] == "visit" else None for e in events], pa.string()),
            "amount": pa.array([e[4] if e[1] == "pay" else None for e in events], pa.float64()),
        }
    )


def read(arrays: EventArrays, user: str, cutoff_hour: int) -> list[list[tuple[int, str]]]:
    """What a request reads: (hour, text) of each modality, oldest first."""
    cutoffs = np.array([to_microseconds(START + timedelta(hours=cutoff_hour))])
    slices = slice_histories(arrays, arrays.user_rows([user]), cutoffs, WORKSPACE)
    result = []
    for column, events in enumerate(arrays.modalities):
        kept = range(int(slices.start[0, column]), int(slices.stop[0, column]))
        base = to_microseconds(START)
        result.append(
            [((int(events.time[i]) - base) // 3_600_000_000, arrays.texts[events.text[i]]) for i in kept]
        )
    return result


def slow_read(events: Sequence[Event], user: str, cutoff_hour: int) -> list[list[tuple[int, str]]]:
    result = []
    for name, spec in WORKSPACE.modalities.items():
        kept = []
        for number, (owner, modality, hour, text, _) in enumerate(events):
            if owner == user and modality == name and cutoff_hour - 240 <= hour < cutoff_hour:
                kept.append((hour, number, f"paid {text}, it's " if name == "pay" else text))
        kept.sort()
        result.append([(hour, text) for hour, _, text in kept[-spec.max_events :]])
    return result


EVENTS = st.lists(
    st.tuples(
        st.sampled_from(["a", "b", "ü", "Z"]),
        st.sampled_from(["pay", "visit"]),
        st.integers(0, 400),
        st.sampled_from(["tea", "o'clock", "rent {x}"]),
        st.one_of(st.none(), st.floats(-100, 100)),
    ),
    min_size=1,
    max_size=40,
)


@settings(max_examples=20, deadline=None)
@given(EVENTS, st.integers(0, 420))
def test_slices_equal_a_slow_loop(events: list[Event], cutoff_hour: int) -> None:
    arrays = arrays_from_table(as_table(events), WORKSPACE)
    for user in ("a", "b", "ü", "Z", "nobody"):
        assert read(arrays, user, cutoff_hour) == slow_read(events, user, cutoff_hour)


@settings(max_examples=12, deadline=None)
@given(EVENTS, st.integers(1, 400), EVENTS)
def test_events_at_or_after_the_cutoff_change_nothing(
    events: list[Event], cutoff_hour: int, leaks: list[Event]
) -> None:
    past = [e for e in events if e[2] < cutoff_hour]
    planted: list[Event] = [
        (user, kind, max(hour, cutoff_hour), "LEAK", 1e6) for user, kind, hour, _, _ in leaks
    ]
    clean = arrays_from_table(as_table(past), WORKSPACE)
    leaky = arrays_from_table(as_table(past + planted), WORKSPACE)
    for user in ("a", "b", "ü", "Z"):
        assert read(leaky, user, cutoff_hour) == read(clean, user, cutoff_hour)


@settings(max_examples=12, deadline=None)
@given(EVENTS, st.randoms(use_true_random=False))
def test_the_order_of_rows_changes_nothing(events: list[Event], random: Any) -> None:
    ids = [f"e{i:05d}" for i in range(len(events))]
    shuffled = list(zip(events, ids, strict=True))
    random.shuffle(shuffled)
    straight = arrays_from_table(as_table(events, ids), WORKSPACE)
    mixed = arrays_from_table(as_table([e for e, _ in shuffled], [i for _, i in shuffled]), WORKSPACE)
    for one, other in zip(straight.modalities, mixed.modalities, strict=True):
        np.testing.assert_array_equal(one.time, other.time)
        np.testing.assert_array_equal(one.offsets, other.offsets)
        np.testing.assert_array_equal(one.numbers, other.numbers)
        assert [straight.texts[i] for i in one.text] == [mixed.texts[i] for i in other.text]


def test_a_repeated_event_id_is_one_event() -> None:
    events: list[Event] = [("a", "visit", 5, "home", None), ("a", "visit", 5, "home", None)]
    arrays = arrays_from_table(as_table(events, ["same", "same"]), WORKSPACE)
    assert read(arrays, "a", 6) == [[], [(5, "home")]]


def test_equal_rows_without_ids_are_events_of_their_own() -> None:
    events: list[Event] = [("a", "visit", 5, "home", None), ("a", "visit", 5, "home", None)]
    arrays = arrays_from_table(as_table(events).drop_columns(["event_id"]), WORKSPACE)
    assert read(arrays, "a", 6) == [[], [(5, "home"), (5, "home")]]


def test_events_of_one_moment_stand_in_the_order_of_their_ids() -> None:
    events: list[Event] = [("a", "visit", 5, "home", None), ("a", "visit", 5, "tea", None)]
    for ids, expected in ((["x", "y"], ["home", "tea"]), (["y", "x"], ["tea", "home"])):
        kept = read(arrays_from_table(as_table(events, ids), WORKSPACE), "a", 6)[1]
        assert [text for _, text in kept] == expected


def test_window_events_counts_what_max_events_cut() -> None:
    events: list[Event] = [("a", "visit", hour, "home", None) for hour in range(6)]
    arrays = arrays_from_table(as_table(events), WORKSPACE)
    slices = slice_histories(arrays, np.array([0]), np.array([to_microseconds(START) + DAY]), WORKSPACE)
    assert slices.window_events.tolist() == [[0, 6]]
    assert (slices.stop - slices.start).tolist() == [[0, 2]]


def test_take_keeps_requests_together() -> None:
    events: list[Event] = [("a", "visit", 1, "x", None), ("b", "visit", 2, "y", None)]
    arrays = arrays_from_table(as_table(events), WORKSPACE)
    cutoffs = np.array([to_microseconds(START) + DAY, to_microseconds(START) + 2 * DAY])
    slices = slice_histories(arrays, np.array([0, 1]), cutoffs, WORKSPACE).take(np.array([1]))
    assert slices.cutoff.tolist() == [cutoffs[1]]
    assert arrays.modalities[1].time[slices.start[0, 1]] == to_microseconds(START + timedelta(hours=2))


def test_last_times_are_over_all_modalities() -> None:
    events: list[Event] = [("a", "visit", 3, "x", None), ("a", "pay", 7, "y", None), ("b", "pay", 1, "y", 1)]
    arrays = arrays_from_table(as_table(events), WORKSPACE)
    hours = (arrays.last_times() - to_microseconds(START)) // 3_600_000_000
    assert hours.tolist() == [7, 1]


def test_unknown_users_have_no_row() -> None:
    arrays = arrays_from_table(as_table([("b", "visit", 1, "x", None)]), WORKSPACE)
    assert arrays.user_rows(["a", "b", "c"]).tolist() == [-1, 0, -1]


def test_an_empty_table_gives_empty_arrays() -> None:
    arrays = arrays_from_table(as_table([]), WORKSPACE)
    assert len(arrays.users) == 0
    assert read(arrays, "a", 5) == [[], []]


def test_times_without_a_zone_are_utc() -> None:
    table = as_table([("a", "visit", 5, "home", None)])
    naive = table.set_column(2, "event_time", table["event_time"].cast(pa.timestamp("us")))
    assert read(arrays_from_table(naive, WORKSPACE), "a", 6) == [[], [(5, "home")]]


def test_a_pandas_frame_reads_like_its_table() -> None:
    table = as_table([("a", "visit", 5, "home", None), ("a", "pay", 4, "tea", 2.5)])
    arrays = arrays_from_table(table.to_pandas(), WORKSPACE)
    assert read(arrays, "a", 6) == [[(4, "paid tea, it's ")], [(5, "home")]]
    assert arrays.modalities[0].numbers.tolist() == [[2.5]]


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("user_id", None, "row 1 is no valid event: missing_field"),
        ("event_time", None, "missing_field"),
        ("modality", "wire", "unknown_modality"),
        ("modality", None, "missing_field"),
        ("shop", None, "missing_field"),
        ("amount", 1e20, "out_of_range"),
    ],
)
def test_a_bad_value_is_named_in_one_line(column: str, value: Any, message: str) -> None:
    table = as_table([("a", "pay", 5, "tea", 1.0)])
    place = table.column_names.index(column)
    bad = table.set_column(place, column, pa.array([value], table.schema.field(column).type))
    with pytest.raises(EventsInvalid, match=message) as caught:
        arrays_from_table(bad, WORKSPACE)
    assert "\n" not in str(caught.value)


def test_a_missing_column_is_named() -> None:
    with pytest.raises(EventsInvalid, match="no column 'user_id'"):
        arrays_from_table(as_table([]).drop_columns(["user_id"]), WORKSPACE)


def test_a_number_in_words_is_refused_and_one_in_a_csv_is_read() -> None:
    table = as_table([("a", "pay", 5, "tea", 1.0)])
    place = table.column_names.index("amount")
    with pytest.raises(EventsInvalid, match="wrong_type"):
        arrays_from_table(table.set_column(place, "amount", pa.array(["much"])), WORKSPACE)
    arrays = arrays_from_table(table.set_column(place, "amount", pa.array(["2.5"])), WORKSPACE, is_text=True)
    assert arrays.modalities[0].numbers.tolist() == [[2.5]]


@dataclass
class FakeLog:
    """An event log held in memory."""

    table: pa.Table

    def connect(self) -> Any:
        connection = duckdb.connect()
        connection.execute("SET TimeZone='UTC'")
        connection.register("events", self.table)
        return connection


def test_loading_is_bounded_by_time_and_users() -> None:
    events: list[Event] = [("a", "visit", hour, "x", None) for hour in range(10)]
    log = FakeLog(as_table([*events, ("b", "visit", 4, "y", None)]))
    moment = START + timedelta(hours=5)
    early = load_event_arrays(log, WORKSPACE, before=moment)
    late = load_event_arrays(log, WORKSPACE, after=moment, users=["a"])
    assert early.users.tolist() == ["a", "b"]
    assert early.modalities[1].time.max() < to_microseconds(moment)
    assert late.users.tolist() == ["a"]
    assert late.modalities[1].time.min() == to_microseconds(moment)


def test_each_distinct_text_is_stored_once() -> None:
    events: list[Event] = [("a", "pay", hour, "tea", None) for hour in range(10)]
    arrays = load_event_arrays(FakeLog(as_table(events)), WORKSPACE)
    assert arrays.texts == ("paid tea, it's ",)
    assert set(arrays.modalities[0].text.tolist()) == {0}


def test_events_in_memory_that_share_an_id_are_refused() -> None:
    row = {"user_id": "u1", "event_time": START, "modality": "visit", "page": "home", "event_id": "o1"}
    arrays = arrays_from_table(pa.Table.from_pylist([row, row]), WORKSPACE)
    assert len(arrays.modalities[1].time) == 1
    with pytest.raises(EventsInvalid, match=r"event_id 'o1' is that of several events \(1 rows.*type key"):
        arrays_from_table(pa.Table.from_pylist([row, row, {**row, "page": "cart"}]), WORKSPACE)
