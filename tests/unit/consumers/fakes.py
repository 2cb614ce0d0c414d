"""A Kafka client and records for tests: no network."""

import json
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from kafka import TopicPartition

from consumers.decode import DecodedBatch, DecodedRecords, decode_records
from tests.unit.events.files import START, make_decoder

TOPIC = "t"


@dataclass
class Record:
    """What the consumer reads of kafka-python's ConsumerRecord."""

    offset: int
    value: bytes | None
    partition: int = 0
    topic: str = TOPIC
    key: bytes | None = b"k"
    timestamp: int = 0
    headers: Sequence[tuple[str, bytes]] = ()


def records(start: int, stop: int, partition: int = 0, **changes: Any) -> list[Record]:
    event = {
        "user_id": "u",
        "event_time": START.isoformat(),
        "modality": "visit",
        "page": "p",
        "invoice": "i",
    }
    return [
        Record(i, json.dumps({**event, "event_id": f"{partition}-{i}", **changes}).encode(), partition)
        for i in range(start, stop)
    ]


@dataclass
class FakeClient:
    """A KafkaConsumer that returns what it was given, once it is told to."""

    polls: deque[Any] = field(default_factory=deque)
    sought: list[tuple[int, int | None]] = field(default_factory=list)
    owned: set[Any] = field(default_factory=set)
    held: set[Any] = field(default_factory=set)
    committed: list[Mapping[Any, Any]] = field(default_factory=list)
    ends: dict[Any, int] = field(default_factory=dict)
    positions: dict[Any, int] = field(default_factory=dict)
    begins: dict[Any, int] = field(default_factory=dict)
    number: str = ""
    damaged: Any = None

    def subscribe(self, topics: Sequence[str], listener: Any) -> None:
        """Remember nothing: tests drive the listener themselves."""

    def poll(self, _timeout_ms: int, max_records: int) -> Any:
        time.sleep(0.001)  # as a real one, it lets the write thread run
        if not self.polls:
            return {}
        found = self.polls.popleft()
        if isinstance(found, Exception):
            raise found
        polled = found(self) if callable(found) else found
        for place, batch in polled.items():
            self.positions[place] = batch[-1].offset + 1
        return polled

    def seek(self, place: Any, offset: int) -> None:
        self.sought.append((place.partition, offset))

    def seek_to_beginning(self, place: Any) -> None:
        self.sought.append((place.partition, None))

    def assignment(self) -> set[Any]:
        return set(self.owned)

    def pause(self, *places: Any) -> None:
        self.held |= set(places)

    def paused(self) -> set[Any]:
        return set(self.held)

    def resume(self, *places: Any) -> None:
        self.held -= set(places)

    def commit_async(self, offsets: Mapping[Any, Any]) -> None:
        self.committed.append(offsets)

    def commit(self, offsets: Mapping[Any, Any], timeout_ms: int) -> None:
        self.committed.append(offsets)

    def end_offsets(self, places: Sequence[Any], timeout_ms: int) -> dict[Any, int]:
        return {place: self.ends.get(place, 0) for place in places}

    def partitions_for_topic(self, topic: str) -> set[int]:
        return {place.partition for place in self.owned | self.ends.keys() if place.topic == topic}

    def read_to(self, topic: str) -> dict[int, int]:
        return {place.partition: offset for place, offset in self.positions.items() if place in self.owned}

    def beginning_offsets(self, places: Sequence[Any]) -> dict[Any, int]:
        return {place: self.begins.get(place, 0) for place in places}

    def topic_problem(self, topic: str) -> Any:
        return None

    def topic_id(self, topic: str) -> str:
        return self.number

    def refresh_metadata(self, timeout_ms: float) -> None:
        """Nothing is older than it should be."""

    def rejoin(self) -> None:
        """Nobody else is in the group."""

    def position(self, place: Any, timeout_ms: int) -> int:
        return self.positions.get(place, 0)


def decode(some: Sequence[Any]) -> DecodedRecords:
    return decode_records(make_decoder(), some)


def batch(*parts: Sequence[Any]) -> DecodedBatch:
    return DecodedBatch([decode(part) for part in parts])


def place(partition: int) -> Any:
    return TopicPartition(TOPIC, partition)
