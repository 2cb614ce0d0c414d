"""Vectors on their way to the offline store: bounded part files in the cache, and a hash of what they hold.

Nothing here is seen by a reader. A run that is killed leaves a folder that the next run deletes.
"""

import hashlib
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from qanchor.events.history import EventArrays, HistorySlices, Int64
from qanchor.names import (
    CREATED,
    EVENT_TIMESTAMP,
    LAST_EVENT_TS,
    MODEL_VERSION,
    N_EVENTS,
    USER_ID,
    embedding_field,
)

PART_ROWS = 50_000

_MOMENT = pa.timestamp("us", tz="UTC")


@dataclass(frozen=True)
class VectorRows:
    """Vectors of one scenario, with what was read to make them.

    Args:
        users: object [rows], user ids.
        cutoffs: int64 [rows], microseconds UTC.
        vectors: float32 [rows, dim], unit length.
        events: int64 [rows], events of the window before the cut-off.
        last: int64 [rows], the newest of them, microseconds UTC; -1 where there is none.
    """

    users: NDArray[np.object_]
    cutoffs: Int64
    vectors: NDArray[np.float32]
    events: Int64
    last: Int64

    def table(self, scenario: str, model_version: str) -> pa.Table:
        """The rows as the scenario's Feast view holds them."""
        rows, width = self.vectors.shape
        offsets = np.arange(0, rows * width + 1, width, dtype=np.int32)
        moment = _moments(self.cutoffs)
        return pa.table(
            {
                USER_ID: pa.array(self.users, pa.string()),
                embedding_field(scenario): pa.ListArray.from_arrays(offsets, self.vectors.reshape(-1)),
                MODEL_VERSION: pa.array([model_version] * rows, pa.string()),
                N_EVENTS: self.events,
                LAST_EVENT_TS: _moments(self.last, self.last < 0),
                EVENT_TIMESTAMP: moment,
                # A vector is a function of the events before its cut-off alone, however late it is computed.
                CREATED: moment,
            }
        )


def what_was_read(arrays: EventArrays, slices: HistorySlices) -> tuple[Int64, Int64]:
    """For each request the events of its window, and the newest one's time (-1: none); int64 [requests]."""
    last = np.full(len(slices.cutoff), -1, dtype=np.int64)
    for column, events in enumerate(arrays.modalities):
        has = slices.stop[:, column] > slices.start[:, column]
        last[has] = np.maximum(last[has], events.time[slices.stop[has, column] - 1])
    return slices.window_events.sum(axis=1), last


class StagedVectors:
    """One scenario's rows, written to the cache in parts of bounded size.

    Args:
        folder: its own; deleted first if an earlier run left it.
        scenario: its name.
        model_version: the model that makes the vectors.
        part_rows: rows that are kept in memory before a part is written.
    """

    def __init__(self, folder: Path, scenario: str, model_version: str, part_rows: int = PART_ROWS) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        self.rows = 0
        self._folder, self._scenario, self._model = folder, scenario, model_version
        self._part_rows = part_rows
        self._held: list[pa.Table] = []
        self._held_rows = 0
        self._parts: list[Path] = []
        self._digest = hashlib.sha256()

    @property
    def content_hash(self) -> str:
        """SHA-256 of all rows in their order: the same inputs give the same hash."""
        return self._digest.hexdigest()

    def add(self, rows: VectorRows) -> None:
        """Take rows in."""
        self._digest.update("\0".join(rows.users).encode())
        for column in (rows.cutoffs, rows.vectors, rows.events, rows.last):
            self._digest.update(np.ascontiguousarray(column).tobytes())
        self._held.append(rows.table(self._scenario, self._model))
        self._held_rows += len(rows.users)
        self.rows += len(rows.users)
        if self._held_rows >= self._part_rows:
            self._write()

    def parts(self) -> Iterator[pa.Table]:
        """The parts, one after the other, in the order in which they were written."""
        if self._held:
            self._write()
        for path in self._parts:
            yield pq.read_table(path)

    def _write(self) -> None:
        path = self._folder / f"{len(self._parts):05d}.parquet"
        pq.write_table(pa.concat_tables(self._held), path, compression="zstd", compression_level=1)
        self._parts.append(path)
        self._held, self._held_rows = [], 0


def _moments(microseconds: Int64, absent: NDArray[np.bool_] | None = None) -> pa.Array:
    return pa.array(microseconds, pa.int64(), mask=absent).cast(_MOMENT)
