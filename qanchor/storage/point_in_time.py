"""Point-in-time reads of part files: find the row of each key at a moment, then read only these rows.

The answer equals Feast's `get_historical_features(..., filter_by_created_timestamp=True)`: of the rows
of the key with event_timestamp <= as_of, created <= as_of and as_of <= event_timestamp + ttl, the one with
the greatest (event_timestamp, created). DuckDB's ASOF join finds one predecessor by one clock, so the rows
are first put in the order in which they become available, and those that are outdated on arrival drop out.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from qanchor import names
from qanchor.storage.parts import Matrix, require_parts, vectors_of
from qanchor.storage.sql import Connection, connect
from qanchor.times import EPOCH, TIMESTAMP, to_microseconds

Positions = npt.NDArray[np.int64]
# 4,096 vectors of 128 floats fill two MiB, which a core's cache holds: twice as fast as 65,536.
_ROWS_PER_READ = 4_096
# Longer than any row is old, and short enough to be added to a time in microseconds.
FOREVER = timedelta(days=36_500_000)

_AVAILABLE = """
    SELECT user_id, event_timestamp, greatest(event_timestamp, created) AS available, part, file_row_number,
        dense_rank() OVER (PARTITION BY user_id ORDER BY event_timestamp, created) AS standing
    FROM rows
"""
_ASOF = f"""
    WITH available AS ({_AVAILABLE}),
    standing AS (
        SELECT *, max(standing) OVER (
            PARTITION BY user_id ORDER BY available, standing, part, file_row_number ROWS UNBOUNDED PRECEDING
        ) AS best
        FROM available
    ),
    newest AS (
        SELECT * FROM standing WHERE standing = best
        QUALIFY lead(available) OVER (
            PARTITION BY user_id ORDER BY available, standing, part, file_row_number
        ) IS DISTINCT FROM available
    )
    SELECT
        if(r.as_of <= n.event_timestamp + $ttl, n.part, NULL) AS part,
        if(r.as_of <= n.event_timestamp + $ttl, n.file_row_number, NULL) AS file_row_number
    FROM requests r ASOF LEFT JOIN newest n ON r.user_id = n.user_id AND r.as_of >= n.available
    ORDER BY r.request
"""  # no outside text
_LATEST = """
    SELECT part, file_row_number FROM rows
    WHERE event_timestamp <= $end AND (event_timestamp >= $start OR created >= $created_from)
    QUALIFY row_number() OVER (
        PARTITION BY user_id ORDER BY event_timestamp DESC, created DESC, part DESC, file_row_number DESC
    ) = 1
    ORDER BY part, file_row_number
"""


@dataclass(frozen=True)
class Rows:
    """Rows of a view's parts.

    Args:
        parts: files of the view.
        part: int64 (rows), index into parts; -1 where there is no row.
        row: int64 (rows), position in that file; -1 where there is no row.
    """

    parts: Sequence[Path]
    part: Positions
    row: Positions


def _open_rows(parts: Sequence[Path]) -> Connection:
    connection = connect()
    connection.register(
        "part_names", pa.table({"filename": [str(path) for path in parts], "part": np.arange(len(parts))})
    )
    files = connection.read_parquet([str(path) for path in parts], filename=True, file_row_number=True)
    keys = "user_id, event_timestamp, created, filename, file_row_number"
    files.project(keys).create_view("files")
    # Feast leaves rows without a time or a creation time out of a join, and so does this.
    connection.execute(
        "CREATE TEMP TABLE rows AS SELECT user_id, epoch_us(event_timestamp) AS event_timestamp,"
        " epoch_us(created) AS created, part, file_row_number FROM files JOIN part_names USING (filename)"
        " WHERE event_timestamp IS NOT NULL AND created IS NOT NULL"
    )
    return connection


def _rows(parts: Sequence[Path], rows: pa.Table) -> Rows:
    part, row = (
        column.fill_null(-1).to_numpy().astype(np.int64, copy=False)
        for column in (rows["part"], rows["file_row_number"])
    )
    return Rows(parts, part, row)


def rows_as_of(folder: Path, requests: pa.Table, ttl: timedelta) -> Rows:
    """For each request the newest row as of its moment; none where there is none or it is too old.

    Args:
        folder: the view's folder.
        requests: user_id, as_of (timestamp); one result for each row, in its order.
        ttl: longest time from event_timestamp to as_of, inclusive.

    Raises:
        NotReady: the view was never applied; run `feast apply`.
    """
    parts = require_parts(folder)
    requested = pa.table(
        {
            names.USER_ID: requests[names.USER_ID],
            names.AS_OF: requests[names.AS_OF].cast(TIMESTAMP).cast(pa.int64()),
            "request": np.arange(len(requests)),
        }
    )
    with _open_rows(parts) as connection:
        connection.register("requested", requested)
        # DuckDB does not know how many rows a registered table has, and then takes an ASOF join for so small
        # that it loops over it: 41 s for 100,000 labels, against 0.3 s from a real table.
        connection.execute("CREATE TEMP TABLE requests AS SELECT * FROM requested")
        longest = ttl // timedelta(microseconds=1)
        return _rows(parts, connection.execute(_ASOF, {"ttl": longest}).to_arrow_table())


def latest_rows(folder: Path, start: datetime, end: datetime, overlap: timedelta) -> Rows:
    """The newest row of each user in a time span, rows that were written late included.

    A row belongs to the span if it happened in it, or if it was created in it or up to `overlap`
    before it: Feast's incremental run would miss a row that happened before the last run and
    arrived after it.

    Args:
        folder: the view's folder.
        start: first event_timestamp, with a zone.
        end: last event_timestamp, with a zone.
        overlap: how long before `start` a late row may have been created.
    """
    parts = require_parts(folder)
    reach = overlap if start > EPOCH + overlap else timedelta(0)
    with _open_rows(parts) as connection:
        moments = {"start": start, "end": end, "created_from": start - reach}
        span = {name: to_microseconds(moment) for name, moment in moments.items()}
        return _rows(parts, connection.execute(_LATEST, span).to_arrow_table())


def read_by_part(
    rows: Rows, columns: pa.Schema, rows_at_once: int = _ROWS_PER_READ
) -> Iterator[tuple[Positions, pa.Table]]:
    """The rows that exist, piece by piece, so that memory holds a bounded number at a time.

    Args:
        rows: which rows.
        columns: which columns; one that an older part lacks comes as null.
        rows_at_once: most rows of a piece.

    Yields:
        Positions in `rows`, int64, and the table of these rows in that order.
    """
    order = np.lexsort((rows.row, rows.part))
    order = order[np.searchsorted(rows.part[order], 0) :]
    first = 0
    for index, count in zip(*np.unique(rows.part[order], return_counts=True), strict=True):
        mine = order[first : first + count]
        first += count
        with pq.ParquetFile(rows.parts[index]) as file:
            yield from _read_part(file, mine, rows.row[mine], columns, rows_at_once)


def _read_part(
    file: pq.ParquetFile,
    positions: Positions,
    rows: Positions,
    columns: pa.Schema,
    rows_at_once: int,
) -> Iterator[tuple[Positions, pa.Table]]:
    """Rows of one part, ascending, with the positions that they have in the answer."""
    present = [name for name in columns.names if name in file.schema_arrow.names]
    begin = 0
    for batch in file.iter_batches(rows_at_once, columns=present):
        end = begin + len(batch)
        some = slice(*np.searchsorted(rows, (begin, end)))
        if some.start < some.stop:
            table = pa.Table.from_batches([batch])
            if not np.array_equal(rows[some], np.arange(begin, end)):
                table = _take(table, rows[some] - begin)
            yield positions[some], _conform(table, columns, some.stop - some.start)
        begin = end


def _conform(table: pa.Table, columns: pa.Schema, rows: int) -> pa.Table:
    present = table.column_names
    return pa.table(
        {
            field.name: table[field.name] if field.name in present else pa.nulls(rows, field.type)
            for field in columns
        }
    ).cast(columns)


def _take(table: pa.Table, rows: Positions) -> pa.Table:
    # Arrow takes lists one by one; vectors all have one width, so numpy takes them as rows of a matrix.
    wide = [field.name for field in table.schema if pa.types.is_list(field.type)]
    # Column by column: a table of no columns has no rows to take from.
    taken = {name: table[name].take(pa.array(rows)) for name in table.column_names if name not in wide}
    for name in wide:
        matrix = vectors_of(table[name], name)[rows]
        offsets = pa.array(np.arange(len(rows) + 1) * matrix.shape[1], pa.int32())
        taken[name] = pa.ListArray.from_arrays(offsets, matrix.reshape(-1))
    return pa.table({name: taken[name] for name in table.column_names})


def read_rows(rows: Rows, columns: pa.Schema) -> pa.Table:
    """The columns of these rows, one result row each, all null where there is no row.

    Args:
        rows: which rows.
        columns: which columns; lists of float32 come back as fixed-size lists.
    """
    wide = [field.name for field in columns if pa.types.is_list(field.type)]
    plain = pa.schema([field for field in columns if field.name not in wide])
    positions_read, tables = [np.empty(0, np.int64)], [plain.empty_table()]
    matrices: dict[str, Matrix] = {}
    for positions, table in read_by_part(rows, columns):
        positions_read.append(positions)
        tables.append(table.select(plain.names))
        for name in wide:
            # A view's parts are of one embedding space, and so of one width.
            known = matrices[name].shape[1] if name in matrices else None
            vectors = vectors_of(table[name], name, known)
            matrix = matrices.setdefault(name, np.zeros((len(rows.part), vectors.shape[1]), np.float32))
            matrix[positions] = vectors
    missing = rows.part < 0
    order = np.full(len(rows.part), -1, np.int64)
    chosen = np.concatenate(positions_read)
    order[chosen] = np.arange(len(chosen))
    none = np.zeros((len(rows.part), names.EMBEDDING_WIDTH), np.float32)
    taken = pa.concat_tables(tables).take(pa.array(order, mask=missing)) if plain.names else {}
    result = {
        name: _fixed_width(matrices.get(name, none), missing) if name in wide else taken[name]
        for name in columns.names
    }
    return pa.table(result)


def _fixed_width(matrix: Matrix, missing: npt.NDArray[np.bool_]) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(
        pa.array(matrix.reshape(-1)), matrix.shape[1], mask=pa.array(missing)
    )
