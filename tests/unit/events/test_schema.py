import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from qanchor.events.columns import EventTables
from qanchor.events.schema import EventDecoder, EventRejected
from qanchor.settings import EventSettings
from qanchor.workspace import FieldSpec, ModalitySpec, Workspace, load_workspace
from tests.unit.events.files import WORKSPACE, make_decoder, payment, visit

_REPO = Path(__file__).parents[3] / "feature_repo"
_WORKSPACE = load_workspace(_REPO)
_DECODER = EventDecoder(_WORKSPACE, EventSettings())
_BILL = {
    "user_id": "u1",
    "event_time": "2026-01-02T03:04:05.678901Z",
    "modality": "bill",
    "direction": "out",
    "category": "food",
    "merchant": "noodles",
    "amount": 12,
}


def _reject(**changes: Any) -> tuple[str, str]:
    with pytest.raises(EventRejected) as caught:
        _DECODER.decode(json.dumps({**_BILL, **changes}).encode())
    return caught.value.reason, caught.value.detail


def test_a_whole_message_becomes_a_row_of_the_log() -> None:
    event = _DECODER.decode(json.dumps({**_BILL, "event_id": "e1", "unknown": [1]}).encode())
    row = _DECODER.tables.join(_DECODER.tables.narrow([event], 3, [77])).to_pylist()[0]
    assert row["event_id"] == "e1"
    assert row["event_time"] == datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
    assert (row["modality"], row["merchant"], row["amount"], row["balance"]) == (
        "bill",
        "noodles",
        12.0,
        None,
    )
    assert (row["_partition"], row["_offset"], row["page"]) == (3, 77, None)


def test_another_time_zone_is_the_same_moment() -> None:
    event = _DECODER.decode(json.dumps({**_BILL, "event_time": "2026-01-02T05:04:05+02:00"}).encode())
    assert _DECODER.tables.in_order([event])["event_time"][0].as_py() == datetime(
        2026, 1, 2, 3, 4, 5, tzinfo=UTC
    )


@pytest.mark.parametrize(
    ("changes", "reason", "field"),
    [
        ({"modality": "xml"}, "unknown_modality", "modality"),
        ({"modality": 3}, "wrong_type", "modality"),
        ({"merchant": None}, "missing_field", "merchant"),
        ({"merchant": 3}, "wrong_type", "merchant"),
        ({"merchant": "x" * 257}, "too_long", "merchant"),
        ({"amount": "12"}, "wrong_type", "amount"),
        ({"amount": True}, "wrong_type", "amount"),
        ({"amount": -1}, "out_of_range", "amount"),
        ({"amount": 1e16}, "out_of_range", "amount"),
        ({"amount": 10**400}, "out_of_range", "amount"),
        ({"user_id": ""}, "empty", "user_id"),
        ({"user_id": 17850}, "wrong_type", "user_id"),
        ({"event_time": "2026-01-02T03:04:05"}, "naive_time", "event_time"),
        ({"event_time": "yesterday"}, "bad_time", "event_time"),
        ({"event_time": 1767323045}, "wrong_type", "event_time"),
        ({"event_time": "1969-07-20T20:17:40Z"}, "too_old", "event_time"),
        ({"event_time": "2999-01-01T00:00:00Z"}, "in_the_future", "event_time"),
        ({"amount": float("nan")}, "not_finite", "NaN"),
        ({"amount": float("inf")}, "not_finite", "Infinity"),
    ],
)
def test_each_fault_has_its_reason_and_names_the_field(changes: Any, reason: str, field: str) -> None:
    found, detail = _reject(**changes)
    assert found == reason
    assert field in detail


@pytest.mark.parametrize("name", ["user_id", "event_time", "modality", "merchant", "amount"])
def test_a_missing_field_is_named(name: str) -> None:
    with pytest.raises(EventRejected, match=f"missing_field: {name}"):
        _DECODER.decode(json.dumps({k: v for k, v in _BILL.items() if k != name}).encode())


def test_an_event_slightly_ahead_of_the_clock_is_accepted() -> None:
    soon = (datetime.now(UTC) + timedelta(hours=23)).isoformat()
    assert _DECODER.decode(json.dumps({**_BILL, "event_time": soon}).encode()).user_id == "u1"


def test_equal_content_has_an_equal_id_whatever_its_zone_and_number_format() -> None:
    first = _DECODER.decode(json.dumps(_BILL).encode())
    same = {**_BILL, "amount": 12.0, "balance": None, "event_time": "2026-01-02T05:04:05.678901+02:00"}
    second = _DECODER.decode(json.dumps(same).encode())
    other = _DECODER.decode(json.dumps({**_BILL, "amount": 12.01}).encode())
    assert (
        _DECODER.tables.event_id(first) == _DECODER.tables.event_id(second) != _DECODER.tables.event_id(other)
    )


def test_a_lone_modality_still_needs_its_tag() -> None:
    spec = ModalitySpec(text="{page}", fields={"page": FieldSpec(type="text")})
    decoder = EventDecoder(Workspace(_REPO, 90, {"visit": spec}, {}), EventSettings())
    event = {"user_id": "u", "event_time": "2026-01-01T00:00:00Z", "page": "home"}
    with pytest.raises(EventRejected, match="missing_field: modality"):
        decoder.decode(json.dumps(event).encode())
    assert decoder.decode(json.dumps({**event, "modality": "visit"}).encode()).user_id == "u"


def test_a_field_named_like_a_keyword_of_python_works() -> None:
    spec = ModalitySpec(text="{class}", fields={"class": FieldSpec(type="text")})
    decoder = EventDecoder(Workspace(_REPO, 90, {"trip": spec}, {}), EventSettings())
    event = decoder.decode(
        b'{"user_id":"u","event_time":"2026-01-01T00:00:00Z","modality":"trip","class":"first"}'
    )
    assert decoder.tables.in_order([event])["class"].to_pylist() == ["first"]


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=80, deadline=None)
@given(st.dictionaries(st.sampled_from([*_BILL, "event_id", "balance", "page"]), _JSON), st.booleans())
def test_any_json_is_accepted_or_rejected_with_a_reason(changes: dict[str, Any], whole: bool) -> None:
    payload = json.dumps({**_BILL, **changes} if whole else changes).encode()
    try:
        event = _DECODER.decode(payload)
    except EventRejected as error:
        assert error.reason.isidentifier()
        return
    assert _DECODER.tables.in_order([event]).num_rows == 1


@settings(max_examples=80, deadline=None)
@given(st.binary(max_size=64))
def test_any_bytes_are_accepted_or_rejected_with_a_reason(payload: bytes) -> None:
    with pytest.raises(EventRejected) as caught:
        _DECODER.decode(payload)
    assert caught.value.reason.isidentifier()


@settings(max_examples=80, deadline=None)
@given(st.dictionaries(st.sampled_from([*_BILL, "event_id", "balance"]), _JSON | st.datetimes()))
@example({"user_id": None, "direction": float("inf")})
@example({"modality": [float("inf")]})
def test_a_row_is_judged_as_the_same_message_is(changes: dict[str, Any]) -> None:
    row = {**_BILL, **{k: v for k, v in changes.items() if not isinstance(v, datetime) or k == "event_time"}}
    try:
        by_row = _DECODER.convert(row).user_id
    except EventRejected as error:
        by_row = error.reason
    wire = {**row, "event_time": str(t.isoformat() if isinstance(t := row["event_time"], datetime) else t)}
    if isinstance(t, str | datetime):
        try:
            by_message = _DECODER.decode(json.dumps(wire).encode()).user_id
        except EventRejected as error:
            by_message = error.reason
        assert by_row == by_message


def test_json_nested_too_deeply_is_refused_and_ends_nothing() -> None:
    with pytest.raises(EventRejected, match="nested too deeply"):
        _DECODER.decode(b'{"unknown":' + b"[" * 100_000)
    assert _DECODER.decode_all([b'{"unknown":' + b"[" * 100_000]) is None


@pytest.mark.parametrize(
    "bad", [None, b"", b"{", b"\xff", {"amount": "x"}, {"event_time": "1969-01-01T00:00:00Z"}]
)
def test_many_messages_decode_as_each_would_or_not_at_all(bad: Any) -> None:
    good = json.dumps(_BILL).encode()
    one = _DECODER.decode(good)
    assert _DECODER.decode_all([good, good]) == [one, one]
    payload = json.dumps({**_BILL, **bad}).encode() if isinstance(bad, dict) else bad
    assert _DECODER.decode_all([good, payload]) is None


def _mixed(count: int) -> list[Any]:
    return [make_decoder().convert((payment if i % 3 else visit)(f"u{i}", i)) for i in range(count)]


def test_a_table_in_order_keeps_the_order_of_events_of_several_modalities_and_slices() -> None:
    events = _mixed(11)
    table = EventTables(WORKSPACE, slice_events=4).in_order(events)
    assert table["user_id"].to_pylist() == [f"u{i}" for i in range(11)]
    assert table["page"].to_pylist() == [None if i % 3 else "home" for i in range(11)]
    assert table["event_time"].to_pylist() == [event.event_time for event in events]
    assert table["_offset"].null_count == table["_partition"].null_count == 11


def test_narrow_tables_join_to_the_same_rows_each_with_its_origin() -> None:
    tables, events = EventTables(WORKSPACE, slice_events=4), _mixed(12)
    joined = tables.join(
        [*tables.narrow(events[:7], 2, range(7)), *tables.narrow(events[7:], 5, range(40, 45))]
    )
    assert joined.schema.equals(tables.schema)
    rows = sorted(joined.to_pylist(), key=lambda row: row["event_time"])
    expected = tables.in_order(events).to_pylist()
    places = [(2, i) for i in range(7)] + [(5, i) for i in range(40, 45)]
    for row, other, (partition, offset) in zip(rows, expected, places, strict=True):
        origin = {"_partition": partition, "_offset": offset, "_ingested_at": row["_ingested_at"]}
        assert row == {**other, **origin}


def test_no_events_join_to_an_empty_table() -> None:
    tables = make_decoder().tables
    assert tables.join([]).num_rows == tables.in_order([]).num_rows == 0
    assert tables.join([]).schema.equals(tables.schema)
