"""Batches of the topic that cannot be read: tried again, passed on request, or the end of the run."""

import logging
from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

from kafka import TopicPartition
from kafka.errors import CorruptRecordError

from consumers.batches import BatchBounds, DamagedBatch, OversizedBatch
from consumers.decode import DecodedRecords, RejectedRecord
from qanchor.errors import StoreUnavailable

log = logging.getLogger(__name__)

_ATTEMPTS: Final = 3  # damaged on the way, a batch is whole when it is fetched again


@dataclass(frozen=True)
class SkippedBatch:
    """What stands for a batch in its dead letter; it has the attributes of a ConsumerRecord."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    value: bytes
    key: bytes | None = None
    headers: tuple[tuple[str, bytes], ...] = ()


class DamageControl:
    """Decides what becomes of a batch that cannot be read.

    Args:
        skip: partitions and offsets that are passed on request.
    """

    def __init__(self, skip: Collection[tuple[int, int]] = ()) -> None:
        self._skip = frozenset(skip)
        self._last, self._attempts = (-1, -1), 0

    def handle(
        self, error: CorruptRecordError, partition: TopicPartition, position: int
    ) -> DecodedRecords | None:
        """What is read in the batch's place.

        Args:
            error: what the client raised.
            partition: TopicPartition of the batch.
            position: offset that is fetched next.

        Returns:
            One rejected record over all its offsets; None: try again.

        Raises:
            StoreUnavailable: it stays as it is, and nobody has said that it may be skipped.
        """
        number = partition.partition
        if isinstance(error, OversizedBatch):
            return _letter(partition, position, error.bounds, "batch_too_large", error.problem)
        bounds = error.bounds if isinstance(error, DamagedBatch) else None
        end = position + 1 if bounds is None or not bounds.begin <= position < bounds.end else bounds.end
        if any(number == where and position <= offset < end for where, offset in self._skip):
            shown = bounds or BatchBounds(position, end, 0, b"", 0)
            return _letter(partition, position, shown, "skipped_damaged", str(error))
        if self._attempts_at(number, position) < _ATTEMPTS:
            log.warning("batch_damaged partition=%d offset=%d error=%r", number, position, str(error))
            return None
        count = f" and the {end - position - 1:,} after it" if end - position > 1 else ""
        raise StoreUnavailable(
            f"the message at offset {position:,} of partition {number} of {partition.topic!r}{count}"
            f" cannot be read: {getattr(error, 'problem', error)}",
            f"Restore the partition's log; `qanchor-cli consume --skip {number}:{position}` goes on without.",
        )

    def _attempts_at(self, partition: int, position: int) -> int:
        if self._last != (partition, position):
            self._last, self._attempts = (partition, position), 0
        self._attempts += 1
        return self._attempts


def _letter(
    partition: TopicPartition, position: int, bounds: BatchBounds, reason: str, detail: str
) -> DecodedRecords:
    end = bounds.end if bounds.begin <= position < bounds.end else position + 1
    record = SkippedBatch(partition.topic, partition.partition, position, bounds.timestamp_ms, bounds.raw)
    count = end - position
    detail = f"{count} messages, offsets {position} to {end - 1}, a batch of {bounds.size:,} bytes: {detail}"
    return DecodedRecords(
        (),
        [RejectedRecord(record, reason, detail)],
        count,
        position,
        end,
        partition.partition,
        bounds.timestamp_ms,
    )
