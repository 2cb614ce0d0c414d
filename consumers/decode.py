"""Kafka records -> typed events, or rejections that keep the record."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Final

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
class DecodedBatch:
    """Records of several partitions after decoding; the three lists of events run in parallel."""

    events: list[UserEvent] = field(default_factory=list)
    partitions: list[int] = field(default_factory=list)
    offsets: list[int] = field(default_factory=list)
    rejected: list[RejectedRecord] = field(default_factory=list)

    @property
    def records(self) -> int:
        """How many records it was made of."""
        return len(self.events) + len(self.rejected)

    @property
    def rejected_share(self) -> float:
        """Share of records that are no valid event, 0..1."""
        return len(self.rejected) / max(1, self.records)


def decode_records(decoder: EventDecoder, records: Iterable[Any]) -> DecodedBatch:
    """Decode every record; none stops the others."""
    batch = DecodedBatch()
    waiting = iter(records)
    while chunk := list(islice(waiting, _CHUNK)):
        events = decoder.decode_all([record.value for record in chunk])
        if events is None:
            _decode_singly(decoder, chunk, batch)
        else:
            batch.events += events
            batch.partitions += [record.partition for record in chunk]
            batch.offsets += [record.offset for record in chunk]
    return batch


def _decode_singly(decoder: EventDecoder, records: Iterable[Any], batch: DecodedBatch) -> None:
    for record in records:
        try:
            if record.value is None:
                raise EventRejected("no_value", "the message has no value")
            event = decoder.decode(record.value)
        except EventRejected as error:
            batch.rejected.append(RejectedRecord(record, error.reason, error.detail))
        else:
            batch.events.append(event)
            batch.partitions.append(record.partition)
            batch.offsets.append(record.offset)
