"""Kafka records -> columns of typed events, or rejections that keep the record.

Records are decoded as they are polled: the thousands of a write wait as columns, a fraction of the memory
that they take as records, and what is left to the writing thread runs outside the interpreter's lock.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, Final

from qanchor.events.columns import NarrowTable
from qanchor.events.schema import EventDecoder, EventRejected, UserEvent

_CHUNK: Final = 500  # a bad record slows its chunk down, not the whole batch


@dataclass(frozen=True)
class RejectedRecord:
    """A Kafka record that is no valid event.

    Args:
        record: kafka-python's ConsumerRecord.
        reason: short, snake_case.
        detail: what exactly.
    """

    record: Any
    reason: str
    detail: str


@dataclass
class DecodedEvents:
    """Records after decoding; `events` and `offsets` run in parallel."""

    events: list[UserEvent] = field(default_factory=list)
    offsets: list[int] = field(default_factory=list)
    rejected: list[RejectedRecord] = field(default_factory=list)


def decode_events(decoder: EventDecoder, records: Sequence[Any]) -> DecodedEvents:
    """Decode every record; none stops the others."""
    decoded = DecodedEvents()
    for start in range(0, len(records), _CHUNK):
        chunk = records[start : start + _CHUNK]
        events = decoder.decode_all([record.value for record in chunk])
        if events is None:
            _decode_singly(decoder, chunk, decoded)
        else:
            decoded.events += events
            decoded.offsets += [record.offset for record in chunk]
    return decoded


def _decode_singly(decoder: EventDecoder, records: Iterable[Any], decoded: DecodedEvents) -> None:
    for record in records:
        try:
            if record.value is None:
                raise EventRejected("no_value", "the message has no value")
            event = decoder.decode(record.value)
        except EventRejected as error:
            decoded.rejected.append(RejectedRecord(record, error.reason, error.detail))
        else:
            decoded.events.append(event)
            decoded.offsets.append(record.offset)


@dataclass(frozen=True)
class DecodedRecords:
    """Consecutive records of one partition, decoded.

    Args:
        tables: the valid events.
        rejected: the others.
        count: how many records it was made of.
        start: offset of the first.
        end: offset of the last, plus one.
        partition: where they came from.
        oldest_ms: time of the first record, milliseconds since the epoch.
    """

    tables: Sequence[NarrowTable]
    rejected: Sequence[RejectedRecord]
    count: int
    start: int
    end: int
    partition: int
    oldest_ms: int


def decode_records(decoder: EventDecoder, records: Sequence[Any]) -> DecodedRecords:
    """Decode consecutive records of one partition; at least one.

    Args:
        decoder: the rules.
        records: kafka-python's ConsumerRecords.
    """
    first, last = records[0], records[-1]
    decoded = decode_events(decoder, records)
    return DecodedRecords(
        decoder.tables.narrow(decoded.events, first.partition, decoded.offsets),
        decoded.rejected,
        len(records),
        first.offset,
        last.offset + 1,
        first.partition,
        first.timestamp,
    )


@dataclass(frozen=True)
class DecodedBatch:
    """What one write is made of, of any number of partitions."""

    parts: Sequence[DecodedRecords] = ()

    def __len__(self) -> int:
        """Number of records."""
        return sum(part.count for part in self.parts)

    @property
    def rejected(self) -> list[RejectedRecord]:
        """The records that are no valid events."""
        return [letter for part in self.parts for letter in part.rejected]

    @property
    def oldest_ms(self) -> dict[int, int]:
        """By partition the time of the record that has waited longest, milliseconds since the epoch."""
        oldest: dict[int, int] = {}
        for part in self.parts:
            oldest.setdefault(part.partition, part.oldest_ms)
        return oldest

    def table(self, decoder: EventDecoder) -> Any:
        """The valid events as a table of the event log."""
        return decoder.tables.join(chain.from_iterable(part.tables for part in self.parts))
