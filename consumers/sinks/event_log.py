"""The sink that makes Kafka messages rows of the event log, each exactly once.

A producer that sends again does so at a new offset, so offsets cannot catch it. A window of the newest
event_ids can: they are kept as 64-bit hashes; among a million of them, one new id in 10**13 is taken for a
repeat.
"""

import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from sqlalchemy import Engine

from consumers.decode import DecodedBatch, RejectedRecord
from qanchor import names
from qanchor.errors import EventsInvalid
from qanchor.events.schema import EventDecoder
from qanchor.registry import ledger
from qanchor.registry.ledger import OffsetRanges
from qanchor.storage.event_log import EventLog, append, recover, settle
from qanchor.storage.sql import Connection, FileError, connect

_LOG = logging.getLogger(__name__)

Hashes = np.ndarray[Any, np.dtype[np.uint64]]
_RECENT_FILES: Final = 500  # read at a takeover; more would keep the partition waiting
_NONE: Final[Hashes] = np.empty(0, np.uint64)
_SMALLEST_JUDGED = 100  # records; of a handful, half may well be bad


class _Newest:
    """Hashes of the newest ids: at least the last `size`, at most twice as many."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._older = self._newer = _NONE

    def holds(self, hashes: Hashes) -> Any:
        return _among(hashes, self._older) | _among(hashes, self._newer)

    def add(self, hashes: Hashes) -> None:
        # The stable sort merges two sorted runs: 20 times as fast as sorting them again.
        self._newer = np.sort(np.concatenate([self._newer, hashes]), kind="stable")
        if len(self._newer) >= self._size:
            self._older, self._newer = self._newer, _NONE


def _among(hashes: Hashes, ordered: Hashes) -> Any:
    if not len(ordered):
        return np.zeros(len(hashes), bool)
    return np.equal(ordered[np.searchsorted(ordered[:-1], hashes)], hashes)


@dataclass(frozen=True)
class FreshEvents:
    """The events of one batch that are not known yet.

    Args:
        table: their rows.
        repeated: how many rows were left out.
        hashes: of their ids by partition, sorted.
    """

    table: pa.Table
    repeated: int = 0
    hashes: Mapping[int, Hashes] = field(default_factory=dict)


class RepeatWindow:
    """The newest event_ids of every partition that this consumer writes.

    It holds what the ledger has committed, nothing else: a partition whose next range does not start where
    the last one ended has had another owner, and is read again from the log's newest files.

    Args:
        engine: the registry with the ledger.
        log: the event log.
        size: ids remembered of each partition at least; 0 remembers none.
    """

    def __init__(self, engine: Engine, log: EventLog, size: int) -> None:
        self._engine, self._log, self._size = engine, log, size
        self._known: dict[int, _Newest] = {}
        self._ends: dict[int, int] = {}
        self._connection: Connection | None = None

    def select(self, table: pa.Table, ranges: Mapping[int, tuple[int, int]]) -> FreshEvents:
        """Leave out the events that are known, and all but the first of one event_id.

        Args:
            table: rows with the log's columns.
            ranges: by partition the offsets it was read from; the first is the ledger's position.

        Raises:
            DatabaseUnavailable: the registry does not answer.
        """
        if not self._size:
            return FreshEvents(table)
        self._catch_up({partition: start for partition, (start, _) in ranges.items()})
        hashes = self._hash(table)
        origin = table[names.SOURCE_PARTITION].to_numpy()
        keep, fresh = np.ones(len(hashes), bool), {}
        for partition in ranges:
            rows = np.flatnonzero(origin == partition)
            fresh[partition] = self._sift(self._known[partition], hashes[rows], rows, keep)
        repeated = len(keep) - int(keep.sum())
        return FreshEvents(table.filter(pa.array(keep)) if repeated else table, repeated, fresh)

    @staticmethod
    def _sift(known: _Newest, hashes: Hashes, rows: NDArray[np.int64], keep: NDArray[np.bool_]) -> Hashes:
        """Clear `keep` at the rows of repeats; the hashes of the others, sorted."""
        ordered = np.sort(hashes)
        repeats = known.holds(ordered)
        repeats[1:] |= ordered[1:] == ordered[:-1]
        if not repeats.any():
            return ordered
        order = np.argsort(hashes, kind="stable")  # of equal ids the first stays
        keep[rows[order[repeats]]] = False
        fresh: Hashes = ordered[~repeats]
        return fresh

    def remember(self, fresh: FreshEvents, ranges: Mapping[int, tuple[int, int]]) -> None:
        """Add what the ledger has committed."""
        for partition, hashes in fresh.hashes.items():
            self._known[partition].add(hashes)
            self._ends[partition] = ranges[partition][1]

    def _catch_up(self, starts: Mapping[int, int]) -> None:
        unknown = {partition: at for partition, at in starts.items() if self._ends.get(partition) != at}
        if not unknown:
            return
        self._known.update({partition: _Newest(self._size) for partition in unknown})
        if any(unknown.values()):
            recover(self._engine, self._log)  # what a killed owner committed may not be published yet
            for partition, hashes in self._read(unknown).items():
                self._known[partition].add(hashes)
        self._ends.update(unknown)

    def _read(self, starts: Mapping[int, int]) -> dict[int, Hashes]:
        recent = ledger.newest_files(self._engine, _RECENT_FILES)
        files = (self._log.path(day, name) for name, day in recent.items())
        paths = [str(path) for path in files if path.exists()]
        if not paths:
            return {}
        newest = [
            f"(_partition = {partition} AND _offset BETWEEN {start - self._size} AND {start - 1})"
            for partition, start in starts.items()
        ]
        try:
            rows = self._connect().execute(
                f"""SELECT _partition, hash(event_id) AS hashed FROM read_parquet($paths, union_by_name=true)
                WHERE _partition IN ({", ".join(map(str, starts))}) AND ({" OR ".join(newest)})""",
                {"paths": paths},
            ).fetchnumpy()  # fmt: skip
        except FileError as error:
            # Compaction deleted a file meanwhile; repeats are dropped on read all the same.
            _LOG.warning("repeat_window_not_read error=%r", str(error))
            return {}
        origin, hashes = np.asarray(rows["_partition"]), np.asarray(rows["hashed"], np.uint64)
        return {partition: hashes[origin == partition] for partition in starts}

    def _hash(self, table: pa.Table) -> Hashes:
        ids = self._connect().from_arrow(table.select([names.EVENT_ID]))
        return np.asarray(ids.project(f"hash({names.EVENT_ID}) AS hashed").fetchnumpy()["hashed"], np.uint64)

    def _connect(self) -> Connection:
        if self._connection is None:
            self._connection = connect(threads=1)
        return self._connection


class DeadLetters(Protocol):
    """Where refused messages go."""

    def send(self, rejected: list[RejectedRecord]) -> None:
        """Return once they are safe."""
        ...


@dataclass(frozen=True)
class Written:
    """One write that the ledger has committed.

    Args:
        ranges: by partition the first offset it covers and the next one to read.
        events: rows added to the event log.
        rejected: messages sent to the dead letters, by reason.
        oldest_ms: by partition the time of the record that has waited longest, milliseconds since the epoch.
        repeated: events left out because the log holds them already.
        table: the rows, with the log's columns.
        commit_seconds: how long the ledger's transaction took.
    """

    ranges: Mapping[int, tuple[int, int]]
    events: int
    rejected: Counter[str] = field(default_factory=Counter)
    oldest_ms: Mapping[int, int] = field(default_factory=dict)
    repeated: int = 0
    table: Any = None
    commit_seconds: float = 0.0

    @property
    def ends(self) -> dict[int, int]:
        """By partition the next offset to read."""
        return {partition: end for partition, (_, end) in self.ranges.items()}


@dataclass
class TopicNotes:
    """What the ledger keeps of the topic beside the offsets.

    Args:
        topic_id: the brokers' id of the topic that the next write was read from; empty where they have none.
        skipped: by partition the offsets of the next write that were left out on request.
    """

    topic_id: str = ""
    skipped: dict[int, int] = field(default_factory=dict)


@dataclass(frozen=True)
class EventLogSink:
    """Writes batches of Kafka records.

    Args:
        engine: the registry with the ledger.
        log: the event log.
        decoder: the rules.
        dead_letters: where refused messages go, before the ledger commits.
        group: consumer group.
        topic: topic.
        dead_letter_share: a larger share of refused messages stops the consumer.
        window: event_ids by which a producer's re-sends are recognised.
        notes: topic's id and skipped offsets, for the ledger.
    """

    engine: Engine
    log: EventLog
    decoder: EventDecoder
    dead_letters: DeadLetters
    group: str
    topic: str
    dead_letter_share: float
    window: RepeatWindow
    notes: TopicNotes = field(default_factory=TopicNotes)

    def write(self, records: DecodedBatch, ranges: Mapping[int, tuple[int, int]]) -> Written:
        """Append decoded records; their offsets are committed with the rows.

        Raises:
            OffsetsFenced: another consumer owns a partition now; nothing was written.
            TopicRecreated: the ledger's offsets are those of a topic that has been deleted.
            EventsInvalid: too many messages are refused; nothing was written.
            StoreUnavailable: disk, database or brokers; nothing counts.
        """
        rejected = records.rejected
        reasons = Counter(letter.reason for letter in rejected)
        if len(records) >= _SMALLEST_JUDGED and len(rejected) > self.dead_letter_share * len(records):
            raise self._too_many(reasons, len(records))
        self.dead_letters.send(rejected)
        fresh = self.window.select(records.table(self.decoder), ranges)
        offsets = OffsetRanges(self.group, self.topic, ranges, self.notes.topic_id, dict(self.notes.skipped))
        rows = append(self.engine, self.log, fresh.table, offsets)
        self.window.remember(fresh, ranges)
        return Written(
            ranges, rows, reasons, records.oldest_ms, fresh.repeated, fresh.table, self.log.commit_seconds
        )

    def _too_many(self, reasons: Counter[str], records: int) -> EventsInvalid:
        reason, count = reasons.most_common(1)[0]
        return EventsInvalid(
            f"{reasons.total():,} of {records:,} messages of {self.topic!r} are refused,"
            f" mostly {reason} ({count:,})",
            "Correct the producer or modalities.yaml, or raise QANCHOR_KAFKA__DEAD_LETTER_SHARE.",
        )

    def settle(self) -> None:
        """Tell the ledger about the last renames."""
        settle(self.engine, self.log)
