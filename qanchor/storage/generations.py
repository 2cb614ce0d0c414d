"""Generations of vectors, one folder for each manifest: the newest of every user, the checksum of all."""

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from qanchor.names import EVENT_TIMESTAMP, USER_ID, embedding_field
from qanchor.storage import checksums
from qanchor.storage.parts import EMPTY_PART, Matrix, list_parts
from qanchor.times import TIMESTAMP, column_microseconds, from_microseconds


@dataclass(frozen=True)
class CurrentVectors:
    """The newest vector of every user.

    Args:
        users: string [users], distinct, ascending.
        moments: int64 [users], cut-offs, microseconds UTC.
        vectors: float32 [users, width].
    """

    users: pa.Array
    moments: NDArray[np.int64]
    vectors: Matrix

    def __len__(self) -> int:
        return len(self.users)

    @property
    def as_of(self) -> datetime:
        """The newest cut-off among them, UTC."""
        return from_microseconds(self.moments.max())

    def hashes(self) -> checksums.Hashes:
        """A hash of every row, uint64 [users]."""
        return checksums.row_hashes(self.users, self.moments, self.vectors)

    def take(self, rows: NDArray[np.int64]) -> "CurrentVectors":
        """Some rows, in that order."""
        return CurrentVectors(self.users.take(pa.array(rows)), self.moments[rows], self.vectors[rows])


def generation_parts(folder: Path) -> list[Path]:
    """The part files of a manifest's folder that hold rows."""
    return [path for path in list_parts(folder) if path.stem != EMPTY_PART]


def generation_rows(folder: Path) -> int:
    """Rows of a manifest's folder."""
    return sum(pq.read_metadata(path).num_rows for path in generation_parts(folder))


def generation_checksum(folder: Path, scenario: str) -> str:
    """The checksum of every row of a manifest's folder, read part by part."""
    rows, total = 0, 0
    for path in generation_parts(folder):
        for batch in pq.ParquetFile(path).iter_batches(
            columns=[USER_ID, EVENT_TIMESTAMP, embedding_field(scenario)]
        ):
            users, moments, vectors = _columns(pa.Table.from_batches([batch]), scenario)
            total = checksums.combined(
                [total, checksums.total(checksums.row_hashes(users, moments, vectors))]
            )
            rows += len(moments)
    return checksums.checksum(total, rows)


def current_vectors(folder: Path, scenario: str, until: datetime | None = None) -> CurrentVectors:
    """The newest vector of each user in a manifest's folder.

    Args:
        folder: folder of the manifest.
        scenario: name of the scenario.
        until: last cut-off that counts, UTC; None: all count.
    """
    paths = generation_parts(folder)
    # Ids and times decide. The vectors, which are the bulk, are read part by part into their rows.
    keys = [pq.read_table(path, columns=[USER_ID, EVENT_TIMESTAMP], partitioning=None) for path in paths]
    rows = _newest_rows(pa.concat_tables(keys), until) if keys else np.empty(0, np.int64)
    if not len(rows):
        return CurrentVectors(pa.array([], pa.string()), np.empty(0, np.int64), np.empty((0, 0), np.float32))
    table = pa.concat_tables(keys).take(pa.array(rows))
    moments = column_microseconds(table[EVENT_TIMESTAMP])
    vectors: Matrix | None = None
    order, start = np.argsort(rows, kind="stable"), 0
    for path in paths:
        for batch in pq.ParquetFile(path).iter_batches(columns=[embedding_field(scenario)]):
            here = order[slice(*np.searchsorted(rows, [start, start + len(batch)], sorter=order))]
            matrix = _vectors(batch.column(0), len(batch))
            if vectors is None:
                vectors = np.empty((len(rows), matrix.shape[1]), np.float32)
            vectors[here] = matrix[rows[here] - start]
            start += len(batch)
    assert vectors is not None
    return CurrentVectors(table[USER_ID].combine_chunks(), moments, vectors)


def _newest_rows(keys: pa.Table, until: datetime | None) -> NDArray[np.int64]:
    """Each user's newest row, by user."""
    allowed = np.arange(len(keys))
    if until is not None:
        due = pc.less_equal(keys[EVENT_TIMESTAMP], pa.scalar(until, TIMESTAMP))
        allowed = np.flatnonzero(due.to_numpy())
        keys = keys.take(pa.array(allowed))
    if not len(keys):
        return np.empty(0, np.int64)
    order = np.asarray(pc.sort_indices(keys, [(USER_ID, "ascending"), (EVENT_TIMESTAMP, "descending")]))
    users = keys[USER_ID].combine_chunks().take(pa.array(order))
    first = np.ones(len(order), dtype=bool)
    first[1:] = np.asarray(pc.not_equal(users.slice(1), users.slice(0, len(users) - 1)))
    newest: NDArray[np.int64] = allowed[order[first]].astype(np.int64)
    return newest


def _columns(table: pa.Table, scenario: str) -> tuple[pa.Array, NDArray[np.int64], Matrix]:
    users = table[USER_ID].combine_chunks()
    moments = column_microseconds(table[EVENT_TIMESTAMP])
    return users, moments, _vectors(table[embedding_field(scenario)], len(moments))


def _vectors(column: pa.Array | pa.ChunkedArray, rows: int) -> Matrix:
    flat = pc.list_flatten(column)
    values = flat.combine_chunks() if isinstance(flat, pa.ChunkedArray) else flat
    return np.asarray(values.to_numpy(zero_copy_only=False), np.float32).reshape(rows, -1)
