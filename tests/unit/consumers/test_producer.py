import json
from pathlib import Path

import msgspec
import pytest

from consumers.producer import event_messages
from qanchor.errors import EventsInvalid
from qanchor.events.quality import EventChecker
from tests.unit.events.files import as_table, make_decoder, payment, visit, write_parquet


def test_a_rows_message_decodes_to_the_event_that_a_load_would_add(tmp_path: Path) -> None:
    rows = [payment("a", note="x"), payment("a", note="x"), visit("b", 1.5)]
    decoder = make_decoder()
    loaded = EventChecker(decoder).check(as_table(rows)).table.drop_columns(["_ingested_at"])
    messages = list(event_messages(write_parquet(tmp_path / "e.parquet", rows), decoder))
    streamed = decoder.tables.in_order([decoder.decode(message.value) for message in messages])
    assert streamed.drop_columns(["_ingested_at"]).to_pylist() == loaded.to_pylist()
    assert [message.user for message in messages] == ["a", "a", "b"]


def test_invalid_rows_are_sent_for_the_consumer_to_refuse(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "e.parquet", [payment(), payment(amount=-1)])
    valid, invalid = event_messages(path, make_decoder())
    assert (valid.is_valid, invalid.is_valid) == (True, False)
    assert msgspec.json.decode(invalid.value)["amount"] == -1


def test_json_lines_go_as_they_are(tmp_path: Path) -> None:
    path = tmp_path / "e.jsonl"
    lines = [json.dumps({"user_id": "u7"}), "{torn", "[1]"]
    path.write_text("\n".join([*lines, "", ""]))
    messages = list(event_messages(path, make_decoder()))
    assert [message.value.decode() for message in messages] == lines
    assert [message.user for message in messages] == ["u7", "", ""]


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(EventsInvalid, match=r"gone\.jsonl"):
        list(event_messages(tmp_path / "gone.jsonl", make_decoder()))
