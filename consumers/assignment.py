"""Which partitions this consumer owns, and the records it has read but not written.

The group's callbacks come from kafka-python's own thread, so everything here is under one lock. A partition
that is assigned is read from the LEDGER's position; Kafka's committed offsets are for lag tools only.
"""

import threading
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from kafka import KafkaConsumer, TopicPartition
from kafka.consumer.subscription_state import AsyncConsumerRebalanceListener
from sqlalchemy import Engine

from consumers.decode import DecodedBatch, DecodedRecords
from qanchor.errors import QAnchorError
from qanchor.registry.ledger import next_offsets


@dataclass(frozen=True)
class ReadyBatch:
    """Records taken out of the buffer for one write.

    Args:
        records: decoded.
        ranges: by partition the first offset and the one after the last; markers and deleted messages count.
    """

    records: DecodedBatch
    ranges: Mapping[int, tuple[int, int]]


class Assignment(AsyncConsumerRebalanceListener):  # type: ignore[misc]
    """Rebalance listener and read buffer in one, because a revoked partition's buffer has to go at once.

    Args:
        client: the GroupMember.
        engine: the registry with the ledger.
        group: consumer group.
        topic: topic.
        decode: function of a partition's consecutive records, as they are polled.
    """

    def __init__(
        self,
        client: KafkaConsumer,
        engine: Engine,
        group: str,
        topic: str,
        decode: Callable[[list[Any]], DecodedRecords],
    ) -> None:
        self._decode = decode
        self._client, self._engine = client, engine
        self._group, self._topic = group, topic
        self._lock = threading.Lock()
        self._owned: dict[int, int | None] = {}  # partition -> where its next range starts
        self._fresh: set[Any] = set()  # assigned, but not yet sought by the polling thread
        self._buffer: dict[int, list[DecodedRecords]] = {}
        self._read: dict[int, int] = {}  # partition -> offset that is fetched next
        self.failure: QAnchorError | None = None
        self.rebalances = 0
        self.changed = time.monotonic()

    async def on_partitions_revoked(self, revoked: Collection[TopicPartition]) -> None:
        """Drop what was read from them: their next owner reads it again from the ledger."""
        self._drop(revoked)

    async def on_partitions_lost(self, lost: Collection[TopicPartition]) -> None:
        """As revoked."""
        self._drop(lost)

    async def on_partitions_assigned(self, assigned: Collection[TopicPartition]) -> None:
        """Read them from the ledger's position on."""
        with self._lock:
            self.rebalances += 1
            self.changed = time.monotonic()
            try:
                self._seek(assigned)
            except QAnchorError as error:
                self.failure = error  # raised in the polling thread
            # The poll that is under way may still return records of before: it is sought once more.
            self._fresh |= set(assigned)

    def _drop(self, partitions: Collection[TopicPartition]) -> None:
        with self._lock:
            for partition in partitions:
                self._owned.pop(partition.partition, None)
                self._buffer.pop(partition.partition, None)
                self._read.pop(partition.partition, None)
                self._fresh.discard(partition)

    def _seek(self, partitions: Collection[TopicPartition]) -> None:
        ledger = next_offsets(self._engine, self._group, self._topic) if partitions else {}
        for partition in partitions:
            start = ledger.get(partition.partition)
            self._owned[partition.partition] = start
            self._buffer.pop(partition.partition, None)
            self._read.pop(partition.partition, None)
            if start is None:
                self._client.seek_to_beginning(partition)
            else:
                self._client.seek(partition, start)

    def take(self, polled: Mapping[Any, list[Any]]) -> int:
        """Decode and buffer what a poll returned.

        Returns:
            Number of records buffered now.

        Raises:
            QAnchorError: the ledger could not be read when partitions were assigned.
        """
        # Outside the lock: the group's callbacks must not wait for it.
        decoded = {partition: self._decode(records) for partition, records in polled.items()}
        with self._lock:
            if self.failure is not None:
                raise self.failure
            fresh, self._fresh = self._fresh, set()
            self._seek(fresh)
            for partition, records in decoded.items():
                number = partition.partition
                if number in self._owned and partition not in fresh:
                    self._buffer.setdefault(number, []).append(records)
            settled = self._owned.keys() - {partition.partition for partition in fresh}
            read = self._client.read_to(self._topic)
            self._read |= {number: offset for number, offset in read.items() if number in settled}
            return sum(part.count for parts in self._buffer.values() for part in parts)

    def pass_batch(self, records: DecodedRecords) -> None:
        """Buffer what stands for a batch that cannot be read, and go on behind it."""
        with self._lock:
            for partition in self._client.assignment():
                if partition.partition == records.partition and records.partition in self._owned:
                    self._buffer.setdefault(records.partition, []).append(records)
                    self._client.seek(partition, records.end)

    @property
    def has_gap(self) -> bool:
        """Whether offsets without a message have been passed that the ledger does not know.

        Transaction markers, aborted messages and those that a compacted topic has dropped leave such gaps;
        to the ledger, and to those who compute a lag from it, they would be unread messages for ever.
        """
        with self._lock:
            return any(offset > self._start(number) for number, offset in self._read.items())

    def _start(self, number: int) -> int:
        return self._owned.get(number) or 0

    def detach(self) -> ReadyBatch:
        """Take everything out of the buffer; the next range starts where this one ends."""
        with self._lock:
            buffered, self._buffer = self._buffer, {}
            ranges = {}
            for number, start in list(self._owned.items()):
                parts = buffered.get(number, [])
                end = max([part.end for part in parts[-1:]] + [self._read.get(number, 0)])
                if parts or end > self._start(number):
                    first = parts[0].start if parts else 0
                    ranges[number] = (first if start is None else start, end)
                    self._owned[number] = end
            return ReadyBatch(DecodedBatch([part for parts in buffered.values() for part in parts]), ranges)

    def seek_all(self) -> None:
        """Drop the buffer and read every owned partition from the ledger again: a write was refused."""
        with self._lock:
            self._fresh |= {p for p in self._client.assignment() if p.partition in self._owned}
            self._buffer, self._read = {}, {}

    def skip_deleted(self, begins: Mapping[int, int]) -> dict[int, int]:
        """Read partitions from where the topic begins now; the next write moves the ledger there.

        Args:
            begins: by partition whose next message has been deleted the offset of the oldest message.

        Returns:
            By partition the number of offsets left out.
        """
        skipped = {}
        with self._lock:
            for partition in self._client.assignment():
                number = partition.partition
                if number in begins and number in self._owned:
                    last = self._buffer.get(number, [])
                    skipped[number] = begins[number] - (last[-1].end if last else self._start(number))
                    self._client.seek(partition, begins[number])
                    self._read[number] = begins[number]
        return skipped

    def next_ranges(self) -> dict[int, int]:
        """By owned partition where the next range starts; where nothing was ever written, what was read."""
        with self._lock:
            return {
                number: self._read.get(number, 0) if start is None else start
                for number, start in self._owned.items()
            }

    def written(self) -> Mapping[int, int]:
        """By partition the offset up to which the ledger has everything, from any consumer.

        Raises:
            DatabaseUnavailable: the ledger cannot be read.
        """
        return next_offsets(self._engine, self._group, self._topic)

    @property
    def owned(self) -> frozenset[int]:
        """The partitions that are owned."""
        with self._lock:
            return frozenset(self._owned)
