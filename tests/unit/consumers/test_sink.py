import pytest

from consumers.sinks.event_log import EventLogSink
from qanchor.errors import EventsInvalid, OffsetsFenced
from qanchor.registry.ledger import next_offsets
from tests.unit.consumers.conftest import KeptLetters
from tests.unit.consumers.fakes import Record, batch, records


def _rows(sink: EventLogSink) -> list[tuple[str, int, int]]:
    with sink.log.connect() as connection:
        found: list[tuple[str, int, int]] = connection.execute(
            "SELECT event_id, _partition, _offset FROM events ORDER BY ALL"
        ).fetchall()
    return found


def test_records_become_rows_that_know_their_origin(sink: EventLogSink) -> None:
    written = sink.write(batch(records(5, 7), records(0, 1, partition=3)), {0: (5, 7), 3: (0, 1)})
    assert (written.events, dict(written.ends)) == (3, {0: 7, 3: 1})
    assert _rows(sink) == [("0-5", 0, 5), ("0-6", 0, 6), ("3-0", 3, 0)]
    assert next_offsets(sink.engine, "g", "t") == {0: 7, 3: 1}


def test_bad_messages_are_dead_letters_and_their_offsets_are_read(sink: EventLogSink) -> None:
    bad = [Record(2, b"{"), Record(3, None), *records(4, 5, page=None)]
    written = sink.write(batch([*records(0, 2), *bad]), {0: (0, 5)})
    assert written.rejected == {"not_json": 1, "no_value": 1, "missing_field": 1}
    assert isinstance(sink.dead_letters, KeptLetters)
    assert [letter.record.offset for letter in sink.dead_letters] == [2, 3, 4]
    assert next_offsets(sink.engine, "g", "t") == {0: 5}


def test_a_batch_of_bad_messages_only_still_moves_on(sink: EventLogSink) -> None:
    assert sink.write(batch([Record(0, b"")]), {0: (0, 1)}).events == 0
    assert next_offsets(sink.engine, "g", "t") == {0: 1}


def test_a_second_writer_of_the_same_range_is_fenced(sink: EventLogSink) -> None:
    sink.write(batch(records(0, 3)), {0: (0, 3)})
    with pytest.raises(OffsetsFenced):
        sink.write(batch(records(0, 5)), {0: (0, 5)})
    assert len(_rows(sink)) == 3


def test_a_flood_of_bad_messages_writes_nothing_at_all(sink: EventLogSink) -> None:
    flood = [*records(0, 40), *(Record(i, b"{") for i in range(40, 100))]
    with pytest.raises(EventsInvalid, match="60 of 100 messages"):
        sink.write(batch(flood), {0: (0, 100)})
    assert isinstance(sink.dead_letters, KeptLetters)
    assert len(sink.dead_letters) == 0
    assert next_offsets(sink.engine, "g", "t") == {}
    assert _rows(sink) == []
