"""Experiment files: one row for each user or decision, read and checked."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from qanchor.csv_files import read_csv, refuse_repeated_columns
from qanchor.errors import InputError, did_you_mean
from qanchor.names import USER_ID

Floats = NDArray[np.float64]


def read_rows(path: Path) -> pa.Table:
    """The rows of a Parquet or CSV file; user ids stay text.

    Raises:
        InputError: the file cannot be read, or holds no row.
    """
    try:
        if path.suffix.lower() == ".parquet":
            refuse_repeated_columns(pq.read_schema(path).names, path)
            table = pq.read_table(path, coerce_int96_timestamp_unit="us")
        elif ".csv" in [suffix.lower() for suffix in path.suffixes[-2:]]:
            table = read_csv(path, [USER_ID])
        else:
            raise InputError(f"{path.name} is neither .parquet nor .csv", "Give a file of one of the two.")
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{path} cannot be read: {error}", "Give a Parquet or CSV file.") from error
    if not table.num_rows:
        raise InputError(f"{path} holds no row", "Give the rows of the experiment.")
    return table


def numbers(table: pa.Table, name: str, missing: bool = False) -> Floats:
    """A column as numbers, (rows,).

    Args:
        table: rows of the file.
        name: name of the column; true and false count as 1 and 0.
        missing: whether values may be missing; they are NaN then.

    Raises:
        InputError: the column is absent or not numeric, or a value is missing; the message names the row.
    """
    values = column(table, name)
    if not _is_number(values.type):
        raise InputError(f"column {name} holds {values.type}, not numbers", "Write it as numbers.")
    if pa.types.is_boolean(values.type):
        values = values.cast(pa.int8())
    floats = values.cast(pa.float64()).to_numpy()
    _refuse_holes(name, np.isinf(floats) if missing else ~np.isfinite(floats))
    return np.asarray(floats, dtype=np.float64)


def _is_number(kind: pa.DataType) -> bool:
    tests = (pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean, pa.types.is_decimal)
    return any(test(kind) for test in tests)


def texts(table: pa.Table, name: str) -> list[str]:
    """A column as text; numbers are written out.

    Raises:
        InputError: there is no such column, or a value is missing; the message names the row.
    """
    values = column(table, name)
    _refuse_holes(name, np.asarray(pc.is_null(values)))
    return [str(value) for value in values.to_pylist()]


def column(table: pa.Table, name: str) -> pa.ChunkedArray:
    """A column by name.

    Raises:
        InputError: there is none; the message lists the columns.
    """
    if name not in table.column_names:
        hint = did_you_mean(name, table.column_names)
        raise InputError(f"there is no column {name!r}", f"{hint}Columns: {', '.join(table.column_names)}.")
    return table[name]


def refuse_repeats(users: Sequence[str]) -> None:
    """Check that each user has one row.

    Raises:
        InputError: a user has two rows; the message names them.
    """
    first: dict[str, int] = {}
    for row, user in enumerate(users, 1):
        if user in first:
            raise InputError(
                f"user {user!r} has rows {first[user]:,} and {row:,}", "Sum up each user in one row."
            )
        first[user] = row


def _refuse_holes(name: str, holes: NDArray[np.bool_]) -> None:
    if holes.any():
        row = int(np.flatnonzero(holes)[0])
        raise InputError(
            f"row {row + 1:,}: column {name} has no finite value", "Remove the row, or fill in the value."
        )
