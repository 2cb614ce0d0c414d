import copy
import io
import random
import struct
from collections.abc import Iterator
from typing import Any

import fastavro
import pytest

from consumers.avro import AvroDecoder
from consumers.decode import decode_events
from consumers.formats import open_decoder
from consumers.schema_registry import SchemaRegistry
from qanchor.errors import StoreUnavailable, WorkspaceInvalid
from qanchor.events.published import avro_schema
from qanchor.events.schema import EventRejected
from qanchor.settings import EventSettings, KafkaSettings, Settings
from tests.unit.consumers.fakes import Record
from tests.unit.consumers.registry_stub import Stub, running_stub
from tests.unit.events.files import WORKSPACE, make_decoder, payment, visit

_OURS = avro_schema(WORKSPACE)


@pytest.fixture
def stub() -> Iterator[Stub]:
    with running_stub() as running:
        running.schemas[7] = _OURS
        yield running


@pytest.fixture
def decoder(stub: Stub) -> AvroDecoder:
    return AvroDecoder(WORKSPACE, EventSettings(), SchemaRegistry(stub.url))


def _encode(event: dict[str, Any], schema: Any = _OURS, number: int = 7) -> bytes:
    stream = io.BytesIO()
    fastavro.schemaless_writer(stream, fastavro.parse_schema(copy.deepcopy(schema)), event)
    return struct.pack(">bI", 0, number) + stream.getvalue()


def _with_fields(schema: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """The schema with fields put in, exchanged, or (None) taken out."""
    kept = [f for f in schema["fields"] if f["name"] not in fields]
    return {**schema, "fields": kept + [{"name": n, **f} for n, f in fields.items() if f is not None]}


def _reason(decoder: AvroDecoder, payload: bytes) -> str:
    with pytest.raises(EventRejected) as caught:
        decoder.decode(payload)
    return caught.value.reason


def test_an_avro_message_is_the_event_that_its_json_would_be(decoder: AvroDecoder) -> None:
    for event in (payment(event_id="e1", note="n"), visit()):
        found = decoder.tables.in_order([decoder.decode(_encode(event))]).drop(["_ingested_at"])
        assert found.equals(decoder.tables.in_order([make_decoder().convert(event)]).drop(["_ingested_at"]))


def test_each_schema_is_asked_for_once(decoder: AvroDecoder, stub: Stub) -> None:
    stub.schemas[8] = _OURS
    payloads = [_encode(payment(), number=7 + i % 2) for i in range(50)]
    events = decoder.decode_all(payloads)
    assert events is not None
    assert len(events) == 50
    assert stub.asked == ["/schemas/ids/7", "/schemas/ids/8"]


def test_a_writer_may_have_more_fields_less_optional_ones_narrower_numbers_and_a_name_of_its_own(
    decoder: AvroDecoder, stub: Stub
) -> None:
    writer = _with_fields(_OURS, extra={"type": "bytes"}, note=None, amount={"type": "int"})
    stub.schemas[9] = {**writer, "name": "Paid", "namespace": "com.shop"}
    event = {**payment(), "amount": 5, "extra": b"x"}
    assert decoder.decode(_encode(event, stub.schemas[9], 9)) == decoder.convert(payment())


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"user_id": {"type": "int"}}, "schema_mismatch"),
        ({"user_id": None}, "schema_mismatch"),
        ({"shop": None}, "missing_field"),
    ],
)
def test_a_schema_that_cannot_be_read_as_an_event_makes_dead_letters(
    decoder: AvroDecoder, stub: Stub, change: Any, reason: str
) -> None:
    stub.schemas[9] = _with_fields(_OURS, **change)
    event = payment(user_id=5) if change.get("user_id") else payment()
    assert _reason(decoder, _encode(event, stub.schemas[9], 9)) == reason


@pytest.mark.parametrize("schema", [{"type": "nonsense"}, {}, "string", {"type": "array", "items": "int"}])
def test_a_schema_that_is_no_record_makes_dead_letters(decoder: AvroDecoder, stub: Stub, schema: Any) -> None:
    stub.schemas[9] = schema
    assert _reason(decoder, struct.pack(">bI", 0, 9) + b"\x02a") in ("schema_mismatch", "not_avro")


def test_the_rules_are_those_of_json(decoder: AvroDecoder) -> None:
    assert _reason(decoder, _encode(payment(amount=-1.0))) == "out_of_range"
    assert _reason(decoder, _encode(payment(amount=float("nan")))) == "not_finite"
    assert _reason(decoder, _encode(payment(modality="unheard"))) == "unknown_modality"
    assert _reason(decoder, _encode(payment(user_id=""))) == "empty"


def test_an_unknown_id_is_a_dead_letter_and_asked_for_once(decoder: AvroDecoder, stub: Stub) -> None:
    records = [Record(i, _encode(payment(), number=7 + i % 2)) for i in range(20)]
    decoded = decode_events(decoder, records)
    assert decoded.offsets == list(range(0, 20, 2))
    assert {letter.reason for letter in decoded.rejected} == {"unknown_schema"}
    assert sorted(stub.asked) == ["/schemas/ids/7", "/schemas/ids/8"]


@pytest.mark.parametrize(
    "payload", [b"", b"\x00\x00\x00", b"{}" * 9, _encode(payment())[:-2], _encode(visit()) + b"x"]
)
def test_what_is_no_avro_is_a_dead_letter(decoder: AvroDecoder, payload: bytes) -> None:
    assert _reason(decoder, payload) == "not_avro"


def test_a_registry_that_hesitates_is_asked_again(decoder: AvroDecoder, stub: Stub) -> None:
    stub.failures = 2
    assert decoder.decode(_encode(payment())).user_id == "u1"


def test_a_registry_that_does_not_answer_is_one_error_and_no_dead_letter(
    decoder: AvroDecoder, stub: Stub
) -> None:
    stub.failures = 100
    with pytest.raises(StoreUnavailable, match=r"schema registry at 127\.0\.0\.1:") as caught:
        decode_events(decoder, [Record(0, _encode(payment()))])
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_web_server_that_is_no_registry_is_an_error_and_no_dead_letter(
    decoder: AvroDecoder, stub: Stub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stub, "answer", lambda _: (404, {"detail": "Not Found"}))
    with pytest.raises(StoreUnavailable):
        decoder.decode(_encode(payment()))


def test_damaged_messages_are_decoded_or_refused(decoder: AvroDecoder) -> None:
    dice = random.Random(3)
    whole = [_encode(payment(note="déjà vu", event_id="e")), _encode(visit())]
    refused = 0
    for _ in range(5_000):
        damaged = bytearray(dice.choice(whole))
        for _ in range(dice.randint(1, 3)):
            damaged[dice.randrange(5, len(damaged))] = dice.randrange(256)
        try:
            decoder.decode(bytes(damaged[: dice.randint(5, 80)]))
        except EventRejected as error:
            refused += 1
            assert error.reason.isidentifier()
    assert refused > 1_000


def test_avro_needs_a_registry() -> None:
    with pytest.raises(WorkspaceInvalid, match="SCHEMA_REGISTRY"):
        open_decoder(WORKSPACE, Settings(kafka=KafkaSettings(format="avro")))


def test_the_decoder_is_that_of_the_topics_format(stub: Stub) -> None:
    avro = KafkaSettings(format="avro", schema_registry=stub.url)
    assert isinstance(open_decoder(WORKSPACE, Settings(kafka=avro)), AvroDecoder)
    assert not isinstance(open_decoder(WORKSPACE, Settings()), AvroDecoder)
