"""The published schemas say what the decoder does."""

import json
from pathlib import Path
from typing import Any

import fastavro
import jsonschema_rs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qanchor.events.published import avro_schema, json_schema
from qanchor.events.schema import EventDecoder, EventRejected
from qanchor.settings import EventSettings
from qanchor.workspace import FieldSpec, ModalitySpec, Workspace
from tests.unit.events.files import WORKSPACE, make_decoder, payment, visit

_DECODER = make_decoder()
_VALIDATOR = jsonschema_rs.Draft202012Validator(json_schema(_DECODER), validate_formats=True)
# What a JSON Schema cannot say: the clock; and what is no JSON at all.
_BEYOND = {"too_old", "in_the_future", "not_json", "not_finite"}


def _wire(event: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {**event, "event_time": event["event_time"].isoformat(), **changes}


@pytest.mark.parametrize(
    "event", [_wire(payment()), _wire(visit(), event_id="e1"), _wire(payment(), extra=[1])]
)
def test_what_the_decoder_accepts_the_schema_accepts(event: dict[str, Any]) -> None:
    assert _DECODER.decode(json.dumps(event).encode()).user_id == "u1"
    assert _VALIDATOR.is_valid(event)


@pytest.mark.parametrize(
    "changes",
    [
        {"modality": "unheard"}, {"modality": None}, {"user_id": ""}, {"user_id": "u" * 257}, {"user_id": 7},
        {"event_id": ""}, {"event_time": "yesterday"}, {"event_time": "2026-01-01T00:00:00"},
        {"event_time": 7}, {"amount": -1}, {"amount": "5"}, {"amount": True}, {"shop": None},
        {"shop": "s" * 21}, {"note": 3}, {"balance": 1e16},
    ],
)  # fmt: skip
def test_what_the_decoder_refuses_the_schema_refuses(changes: dict[str, Any]) -> None:
    event = _wire(payment(), **changes)
    with pytest.raises(EventRejected):
        _DECODER.decode(json.dumps(event).encode())
    assert not _VALIDATOR.is_valid(event)


@pytest.mark.parametrize("field", ["user_id", "event_time", "modality", "shop", "amount"])
def test_a_field_that_is_needed_is_required(field: str) -> None:
    assert not _VALIDATOR.is_valid({name: value for name, value in _wire(payment()).items() if name != field})


_ANY = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False)
    | st.text(max_size=25)
)
_FIELDS = st.sampled_from([*payment(), *visit(), "event_id", "note", "balance", "other"])


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(_FIELDS, _ANY | st.lists(_ANY, max_size=2), max_size=3), st.booleans())
def test_decoder_and_schema_agree_on_any_json(changes: dict[str, Any], pays: bool) -> None:
    event = _wire(payment() if pays else visit(), **changes)
    payload = json.dumps(event)
    try:
        _DECODER.decode(payload.encode())
    except EventRejected as error:
        assert error.reason in _BEYOND or not _VALIDATOR.is_valid(json.loads(payload))
    else:
        assert _VALIDATOR.is_valid(json.loads(payload))


def test_a_lone_modality_has_a_schema_of_the_same_form() -> None:
    spec = ModalitySpec(text="{page}", fields={"page": FieldSpec(type="text")}, description="pages seen")
    decoder = EventDecoder(Workspace(Path(), 90, {"visit": spec}, {}), EventSettings())
    schema = json_schema(decoder)
    assert [part["description"] for part in schema["$defs"].values()] == ["pages seen"]
    validator = jsonschema_rs.Draft202012Validator(schema, validate_formats=True)
    event = {"user_id": "u", "event_time": "2026-01-01T00:00:00Z", "page": "home"}
    assert not validator.is_valid(event)
    assert validator.is_valid({**event, "modality": "visit"})


def test_the_avro_schema_holds_any_event_of_the_log() -> None:
    parsed = fastavro.parse_schema(avro_schema(WORKSPACE))
    for event in (payment(note="n"), visit()):
        assert fastavro.validate(event, parsed)
    assert not fastavro.validate(payment(user_id=None), parsed, raise_errors=False)
