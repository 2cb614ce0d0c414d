"""What the broker knows: topics with their partitions, groups with their offsets, transactions."""

import asyncio
import json
import os
import re
import secrets
import uuid
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TextIO

from consumers.embedded_broker.codes import Code
from consumers.embedded_broker.groups import Group
from consumers.embedded_broker.partition import Partition

_TOPIC: Final = re.compile(r"^[A-Za-z0-9._-]{1,200}$")


@dataclass
class Transaction:
    """A transactional producer and what its open transaction touches."""

    producer: int
    epoch: int = 0
    timeout_seconds: float = 60.0
    began: float | None = None  # monotonic clock, while it is open
    partitions: set[tuple[str, int]] = field(default_factory=set)
    offsets: list[tuple[str, str, int, int, str]] = field(default_factory=list)


class BrokerState:
    """All state of the broker; partitions and offsets lie in its folder.

    Args:
        folder: `TOPIC-PARTITION.log` files and `offsets.jsonl`.
        partitions: of a topic that is created by its first use.
    """

    def __init__(self, folder: Path, partitions: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.partitions = partitions
        self.topics: dict[str, dict[int, Partition]] = {}
        self.topic_ids: dict[str, uuid.UUID] = {}
        self.groups: dict[str, Group] = {}
        self.offsets: dict[str, dict[tuple[str, int], tuple[int, str]]] = {}
        self.transactions: dict[str, Transaction] = {}
        self.arrived = asyncio.Event()  # replaced at every append: who waits for data holds the old one
        self._producer = secrets.randbits(40) << 20  # no id of an earlier run comes again
        self._open_topics()
        self._offset_file = self._open_offsets(folder / "offsets.jsonl")

    def _open_topics(self) -> None:
        for path in sorted(self.folder.glob("*.log")):
            topic, _, index = path.stem.rpartition("-")
            partition = self.topics.setdefault(topic, {})[int(index)] = Partition(path)
            partition.abort_open()
        names = self.folder / "topics.json"
        known = json.loads(names.read_text(encoding="utf-8")) if names.exists() else {}
        self.topic_ids = {topic: uuid.UUID(known.get(topic) or uuid.uuid4().hex) for topic in self.topics}
        self._keep_topic_ids()

    def _keep_topic_ids(self) -> None:
        ids = {topic: number.hex for topic, number in self.topic_ids.items()}
        part = self.folder / "topics.part"
        part.write_text(json.dumps(ids), encoding="utf-8")
        part.replace(self.folder / "topics.json")

    def _open_offsets(self, path: Path) -> TextIO:
        if path.exists():
            with path.open(encoding="utf-8") as lines, suppress(ValueError):  # a torn last line
                for line in lines:
                    group, topic, partition, offset, metadata = json.loads(line)
                    self.offsets.setdefault(group, {})[topic, partition] = (offset, metadata)
        part = path.with_suffix(".part")
        with part.open("w", encoding="utf-8") as lines:
            for group, held in self.offsets.items():
                for (topic, partition), (offset, metadata) in held.items():
                    lines.write(json.dumps([group, topic, partition, offset, metadata]) + "\n")
        part.replace(path)
        return path.open("a", encoding="utf-8", buffering=1)

    def create_topic(self, name: str, partitions: int) -> Code:
        """Create a topic; its name becomes a file name, so it is checked."""
        if name in self.topics:
            return Code.TOPIC_EXISTS
        if not _TOPIC.match(name) or name in (".", ".."):
            return Code.INVALID_TOPIC
        count = partitions if partitions > 0 else self.partitions
        self.topics[name] = {i: Partition(self.folder / f"{name}-{i}.log") for i in range(count)}
        self.topic_ids[name] = uuid.uuid4()
        self._keep_topic_ids()
        return Code.NONE

    def create_partitions(self, name: str, count: int) -> Code:
        """Add partitions to a topic, up to a number of them."""
        if name not in self.topics:
            return Code.UNKNOWN_PARTITION
        present = len(self.topics[name])
        if count <= present:
            return Code.INVALID_PARTITIONS
        for i in range(present, count):
            self.topics[name][i] = Partition(self.folder / f"{name}-{i}.log")
        return Code.NONE

    def delete_topic(self, name: str) -> Code:
        """Delete a topic with its files."""
        if name not in self.topics:
            return Code.UNKNOWN_PARTITION
        for partition in self.topics.pop(name).values():
            partition.close()
            partition.path.unlink(missing_ok=True)
        del self.topic_ids[name]
        self._keep_topic_ids()
        return Code.NONE

    def partition(self, topic: str, index: int) -> Partition | None:
        """A partition, if it exists."""
        return self.topics.get(topic, {}).get(index)

    def group(self, name: str) -> Group:
        """A consumer group, new on its first use."""
        return self.groups.setdefault(name, Group(name))

    def put_offset(self, group: str, topic: str, partition: int, offset: int, metadata: str) -> None:
        """Remember how far a group has read."""
        self.offsets.setdefault(group, {})[topic, partition] = (offset, metadata)
        self._offset_file.write(json.dumps([group, topic, partition, offset, metadata]) + "\n")

    def announce(self) -> None:
        """Wake everyone who waits for data."""
        self.arrived.set()
        self.arrived = asyncio.Event()

    def new_producer(self, transactional_id: str | None, timeout_seconds: float = 60.0) -> tuple[int, int]:
        """Id and epoch of a producer; an older one of the same transactional id is fenced."""
        if not transactional_id:
            self._producer += 1
            return self._producer, 0
        known = self.transactions.get(transactional_id)
        if known is None:
            self._producer += 1
            self.transactions[transactional_id] = Transaction(self._producer, timeout_seconds=timeout_seconds)
            return self._producer, 0
        self.end_transaction(known, commit=False)
        known.epoch, known.timeout_seconds = known.epoch + 1, timeout_seconds
        return known.producer, known.epoch

    def find_transaction(self, transactional_id: str, producer: int, epoch: int) -> Transaction | None:
        """The transaction of a producer that is not fenced."""
        known = self.transactions.get(transactional_id)
        return known if known and (known.producer, known.epoch) == (producer, epoch) else None

    def end_transaction(self, transaction: Transaction, commit: bool) -> None:
        """Commit or abort: a marker in every partition, and the offsets if committed."""
        for topic, index in transaction.partitions:
            partition = self.partition(topic, index)
            if partition is not None:
                partition.end_transaction(transaction.producer, transaction.epoch, commit)
        if commit:
            for offset in transaction.offsets:
                self.put_offset(*offset)
        transaction.partitions, transaction.offsets, transaction.began = set(), [], None
        self.announce()

    def end_expired_transactions(self, now: float) -> None:
        """Abort what has been open for longer than its producer has allowed, and fence the producer."""
        for transaction in self.transactions.values():
            if transaction.began is not None and now - transaction.began > transaction.timeout_seconds:
                transaction.epoch += 1
                self.end_transaction(transaction, commit=False)

    def close(self) -> None:
        """Force everything to the disk and close it."""
        for partitions in self.topics.values():
            for partition in partitions.values():
                partition.close()
        os.fsync(self._offset_file.fileno())
        self._offset_file.close()
