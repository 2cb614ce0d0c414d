import math
from datetime import UTC, datetime
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qanchor.events.quality import Checked, EventChecker
from qanchor.events.schema import EventRejected
from tests.unit.events.files import START, as_table, make_decoder, payment, visit


def _check(rows: list[dict[str, Any]], **options: bool) -> Checked:
    return EventChecker(make_decoder(), **options).check(as_table(rows))


def test_valid_rows_keep_their_values_and_order() -> None:
    table = _check([payment("a", note="x"), visit("b"), payment("c", 1, balance=2)]).table
    assert table["user_id"].to_pylist() == ["a", "b", "c"]
    assert table["shop"].to_pylist() == ["corner", None, "corner"]
    assert table["invoice"].to_pylist() == [None, "i1", None]
    assert table["balance"].to_pylist() == [None, None, 2.0]


def test_a_rejection_says_which_row_and_why() -> None:
    rows = [payment(), payment(amount=-1), payment(shop=None), visit(page="p"), {**visit(), "modality": "x"}]
    found = _check(rows).rejections
    assert [(r.row, r.reason) for r in found] == [
        (2, "out_of_range"),
        (3, "missing_field"),
        (5, "unknown_modality"),
    ]
    assert found[0].event["amount"] == -1


def test_nan_of_pandas_is_a_missing_number() -> None:
    frame = pd.DataFrame([payment(balance=math.nan), payment(amount=math.nan)])
    checked = EventChecker(make_decoder()).check(pa.Table.from_pandas(frame))
    assert checked.table["balance"].to_pylist() == [None]
    assert [r.reason for r in checked.rejections] == ["missing_field"]


def test_an_infinite_number_is_refused() -> None:
    assert [r.reason for r in _check([payment(balance=math.inf)]).rejections] == ["not_finite"]


def test_whole_numbers_serve_as_ids_and_codes() -> None:
    table = _check([visit(user_id=17850, invoice=536365)]).table
    assert (table["user_id"][0].as_py(), table["invoice"][0].as_py()) == ("17850", "536365")


def test_a_field_of_another_modality_is_ignored_as_on_the_wire() -> None:
    checked = _check([payment(page="p", invoice="i"), visit(shop="s")])
    assert checked.table["page"].to_pylist() == [None, "home"]
    assert checked.table["shop"].to_pylist() == ["corner", None]


def test_equal_rows_of_one_file_are_two_events_also_over_batches() -> None:
    checker, again = EventChecker(make_decoder()), EventChecker(make_decoder())
    first = checker.check(as_table([payment(), payment()])).table["event_id"].to_pylist()
    second = checker.check(as_table([payment()])).table["event_id"].to_pylist()
    assert len({*first, *second}) == 3
    assert again.check(as_table([payment()] * 3)).table["event_id"].to_pylist() == first + second


def test_the_id_of_a_row_is_that_of_the_message() -> None:
    decoder = make_decoder()
    row = payment(note=None, balance=1.5)
    (in_file,) = EventChecker(decoder).check(as_table([row])).table["event_id"].to_pylist()
    assert in_file == decoder.tables.event_id(
        decoder.convert({k: v for k, v in row.items() if v is not None})
    )


@pytest.mark.parametrize(
    "text", ["2026-01-01T00:00:00Z", "2026-01-01 00:00:00Z", "2026-01-01T02:00:00.0+02:00"]
)
def test_times_as_text_are_read(text: str) -> None:
    checked = _check([payment(event_time=text), payment(event_time=text)])
    assert checked.table["event_time"].to_pylist() == [START, START]


def test_one_impossible_date_does_not_spoil_the_others() -> None:
    rows = [payment(event_time=t) for t in ("2026-01-01T00:00:00Z", "2026-02-30T00:00:00Z")]
    checked = _check(rows)
    assert checked.table["event_time"].to_pylist() == [START]
    assert [r.reason for r in checked.rejections] == ["bad_time"]


@pytest.mark.parametrize(
    "time", ["2026-01-01T00:00:00", "2026-01-01", "2026-01-01 00:00", datetime(2026, 1, 1)]
)
def test_naive_times_are_refused_unless_they_are_said_to_be_utc(time: Any) -> None:
    (rejection,) = _check([payment(event_time=time)]).rejections
    assert rejection.reason in ("naive_time", "bad_time")
    assert _check([payment(event_time=time)], assume_utc=True).table["event_time"].to_pylist() == [START]


def test_numbers_of_a_csv_are_parsed_and_those_of_parquet_are_not() -> None:
    rows = [payment(amount=a) for a in (" 12.50 ", "1e2", "NA", "twelve", "inf")]
    in_csv, in_parquet = _check(rows, is_text=True), _check(rows)
    assert in_csv.table["amount"].to_pylist() == [12.5, 100.0]
    assert [r.reason for r in in_csv.rejections] == ["missing_field", "wrong_type", "wrong_type"]
    assert in_parquet.table.num_rows == 0
    assert {r.reason for r in in_parquet.rejections} == {"wrong_type", "missing_field"}


_VALUES: dict[str, st.SearchStrategy[Any]] = {
    "user_id": st.sampled_from(["u", "", "x" * 300]),
    "modality": st.sampled_from(["pay", "visit", "pay", "other"]),
    "event_time": st.datetimes(datetime(1969, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC)),
    "shop": st.text(max_size=24),
    "page": st.text(max_size=3),
    "invoice": st.sampled_from(["i", ""]),
    "note": st.text(max_size=3),
    "amount": st.floats(allow_nan=False),
    "balance": st.floats(allow_nan=False),
    "event_id": st.sampled_from(["e", "", "x" * 300]),
}
_ROW = st.fixed_dictionaries({name: st.none() | values for name, values in _VALUES.items()})


@settings(max_examples=60, deadline=None)
@given(st.lists(_ROW, min_size=1, max_size=8))
def test_columns_accept_exactly_the_rows_that_the_decoder_accepts(rows: list[dict[str, Any]]) -> None:
    decoder = make_decoder()
    types = {name: decoder.schema.field(name).type for name in _VALUES}
    batch = pa.table({name: pa.array([row[name] for row in rows], types[name]) for name in _VALUES})
    expected: list[str] = []
    for row in rows:
        try:
            decoder.convert({name: row[name] for name in _VALUES if row[name] is not None})
            expected.append("")
        except EventRejected as error:
            expected.append(error.reason)
    checked = EventChecker(decoder).check(batch)
    assert [(r.row, r.reason) for r in checked.rejections] == [
        (i + 1, reason) for i, reason in enumerate(expected) if reason
    ]
    assert checked.table.num_rows == expected.count("")
    assert checked.table.schema.equals(decoder.schema)
