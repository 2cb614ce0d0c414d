"""Which events of a batch the log holds already, by a bounded memory of the newest event_ids.

A producer that sends again does so at a new offset, so offsets cannot catch it. The ids are kept as 64-bit
hashes: among a million of them, one new id in 10**13 is taken for a repeat.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import pyarrow as pa
from sqlalchemy import Engine

from qanchor import names
from qanchor.registry import ledger
from qanchor.storage.event_log.log import EventLog, recover
from qanchor.storage.sql import Connection, FileError, connect

log = logging.getLogger(__name__)

Hashes = np.ndarray[Any, np.dtype[np.uint64]]
_RECENT_FILES: Final = 500  # read at a takeover; more would keep the partition waiting
_NONE: Final[Hashes] = np.empty(0, np.uint64)


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
    def _sift(known: _Newest, hashes: Hashes, rows: Any, keep: Any) -> Hashes:
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
            log.warning("repeat_window_not_read error=%r", str(error))
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
