"""Reading the vectors of one manifest: the newest of every user, and the checksum of all."""

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from qanchor.names import EVENT_TIMESTAMP, USER_ID, embedding_field
from qanchor.storage import checksums
from qanchor.storage.parts import EMPTY_PART, Matrix, list_parts


@dataclass(frozen=True)
class CurrentVectors:
    """The newest vector of every user.

    Args:
        users: string [users], distinct, ascending.
        moments: int64 [users], their cut-offs, microseconds UTC.
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
        return datetime.fromtimestamp(int(self.moments.max()) / 1e6, tz=UTC)

    def hashes(self) -> checksums.Hashes:
        """A hash of every row, uint64 [users]."""
        return checksums.row_hashes(self.users, self.moments, self.vectors)

    def take(self, rows: NDArray[np.int64]) -> "CurrentVectors":
        """Some rows, in that order."""
        return CurrentVectors(self.users.take(pa.array(rows)), self.moments[rows], self.vectors[rows])


def edition_parts(folder: Path) -> list[Path]:
    """The part files of a manifest's folder that hold rows."""
    return [path for path in list_parts(folder) if path.stem != EMPTY_PART]


def edition_rows(folder: Path) -> int:
    """Rows of a manifest's folder."""
    return sum(pq.read_metadata(path).num_rows for path in edition_parts(folder))


def edition_checksum(folder: Path, scenario: str) -> str:
    """The checksum of every row of a manifest's folder, read part by part."""
    rows, totals = 0, 0
    for path in edition_parts(folder):
        for batch in pq.ParquetFile(path).iter_batches(
            columns=[USER_ID, EVENT_TIMESTAMP, embedding_field(scenario)]
        ):
            users, moments, vectors = _columns(pa.Table.from_batches([batch]), scenario)
            totals = checksums.combined(
                [totals, checksums.total(checksums.row_hashes(users, moments, vectors))]
            )
            rows += len(moments)
    return checksums.checksum(totals, rows)


def current_vectors(folder: Path, scenario: str, until: datetime | None = None) -> CurrentVectors:
    """The newest vector of each user in a manifest's folder.

    Args:
        folder: of the manifest.
        scenario: names the vector's column.
        until: only cut-offs up to this moment, UTC; None: all.
    """
    columns = [USER_ID, EVENT_TIMESTAMP, embedding_field(scenario)]
    filters = (
        None if until is None else pc.field(EVENT_TIMESTAMP) <= pa.scalar(until, pa.timestamp("us", "UTC"))
    )
    tables = [
        pq.read_table(path, columns=columns, filters=filters, partitioning=None)
        for path in edition_parts(folder)
    ]
    if not sum(len(table) for table in tables):
        return CurrentVectors(pa.array([], pa.string()), np.empty(0, np.int64), np.empty((0, 0), np.float32))
    table = pa.concat_tables(tables)
    # Ids and times decide; the vectors, which are the bulk, are copied once.
    order = np.asarray(pc.sort_indices(table, [(USER_ID, "ascending"), (EVENT_TIMESTAMP, "descending")]))
    users = table[USER_ID].combine_chunks().take(pa.array(order))
    first = np.ones(len(order), dtype=bool)
    first[1:] = np.asarray(pc.not_equal(users.slice(1), users.slice(0, len(users) - 1)))
    newest, moments, vectors = _columns(table, scenario)
    rows = order[first]
    return CurrentVectors(newest.take(pa.array(rows)), moments[rows], vectors[rows])


def _columns(table: pa.Table, scenario: str) -> tuple[pa.Array, NDArray[np.int64], Matrix]:
    users = table[USER_ID].combine_chunks()
    moments = np.asarray(table[EVENT_TIMESTAMP].cast(pa.int64())).astype(np.int64, copy=False)
    values = pc.list_flatten(table[embedding_field(scenario)]).combine_chunks().to_numpy(zero_copy_only=False)
    return users, moments, np.asarray(values, np.float32).reshape(len(moments), -1)
