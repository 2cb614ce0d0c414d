"""Reads and checks one label file: every error names its row and column."""

from datetime import timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from qanchor.csv_files import read_csv, refuse_repeated_columns
from qanchor.errors import LabelsInvalid
from qanchor.names import AS_OF, FOLD, LABEL, SPLIT, SPLITS, USER_ID
from qanchor.settings import EventSettings
from qanchor.times import TIMESTAMP, in_calendar, now, read_moment, to_microseconds

LABEL_SCHEMA = pa.schema(
    [
        (USER_ID, pa.string()),
        (AS_OF, TIMESTAMP),
        (LABEL, pa.int8()),
        (FOLD, pa.int16()),
        (SPLIT, pa.string()),
    ]
)
_SHAPE = "A label file has columns user_id, as_of, label and, optionally, fold or split."
_FIX = "Fix or remove that row and load the file again."


def read_label_rows(path: Path, bounds: EventSettings, classes: int = 2) -> pa.Table:
    """The checked rows of a label file, sorted by user and time; absent fold or split is null.

    Dates and times without a zone are UTC. Row numbers in messages count data rows from 1.

    Args:
        path: Parquet (.parquet) or CSV (.csv).
        bounds: times that are refused.
        classes: number of label values, from 0 on.

    Returns:
        A table of LABEL_SCHEMA.

    Raises:
        LabelsInvalid: the file cannot be read or breaks the contract; the message names row and column.
    """
    source = _read(path)
    missing = [name for name in (USER_ID, AS_OF, LABEL) if name not in source.column_names]
    if missing:
        raise LabelsInvalid(f"{path.name} has no column {missing[0]!r}", _SHAPE)
    if not source.num_rows:
        raise LabelsInvalid(f"{path.name} holds no rows", _SHAPE)
    if all(_present(source, name) for name in (FOLD, SPLIT)):
        raise LabelsInvalid(f"{path.name} has both fold and split", "Keep one of the two columns.")
    table = pa.table(
        [
            _users(source[USER_ID]),
            _times(source[AS_OF], bounds),
            _labels(source[LABEL], classes),
            _folds(source) if _present(source, FOLD) else pa.nulls(source.num_rows, pa.int16()),
            _splits(source[SPLIT]) if _present(source, SPLIT) else pa.nulls(source.num_rows, pa.string()),
        ],
        schema=LABEL_SCHEMA,
    )
    _refuse_duplicates(table)
    return table.sort_by([(USER_ID, "ascending"), (AS_OF, "ascending")])


def _read(path: Path) -> pa.Table:
    if not path.is_file():
        raise LabelsInvalid(f"there is no file {path}", "Give a Parquet or CSV file.")
    try:
        if path.suffix.lower() == ".parquet":
            refuse_repeated_columns(pq.read_schema(path).names, path)
            return pq.read_table(path, coerce_int96_timestamp_unit="us")
        if ".csv" in [suffix.lower() for suffix in path.suffixes[-2:]]:
            return read_csv(path, [USER_ID])
    except (OSError, pa.ArrowInvalid) as error:
        raise LabelsInvalid(f"{path} cannot be read: {error}", "Give a Parquet or CSV file.") from error
    raise LabelsInvalid(f"{path.name} is neither .parquet nor .csv", "Give a Parquet or CSV file.")


def _present(source: pa.Table, name: str) -> bool:
    """Whether the column is there and says anything, as an all-null one does not."""
    return name in source.column_names and source[name].null_count < source.num_rows


def _refuse(bad: NDArray[np.bool_], column: str, problem: str, values: pa.ChunkedArray | None = None) -> None:
    """Raise for the first row that is marked bad, with its value from `values`."""
    rows = np.flatnonzero(bad)
    if not len(rows):
        return
    held = "" if values is None else f" {str(values[int(rows[0])].as_py())!r}"
    others = f" (and {len(rows) - 1:,} more rows)" if len(rows) > 1 else ""
    raise LabelsInvalid(f"row {rows[0] + 1:,}, column {column}:{held} {problem}{others}", _FIX)


def _nulls(values: pa.ChunkedArray) -> NDArray[np.bool_]:
    return np.asarray(values.is_null())


def _users(values: pa.ChunkedArray) -> pa.ChunkedArray:
    if pa.types.is_dictionary(values.type):
        values = values.cast(values.type.value_type)
    if not (
        pa.types.is_integer(values.type)
        or pa.types.is_string(values.type)
        or pa.types.is_large_string(values.type)
        or pa.types.is_null(values.type)
    ):
        raise LabelsInvalid(f"column user_id holds {values.type}, not text", "Write user ids as text.")
    users = values.cast(pa.string())
    _refuse(_nulls(users) | np.asarray(pc.equal(users, "").fill_null(False)), USER_ID, "is empty")
    return users


def _times(values: pa.ChunkedArray, bounds: EventSettings) -> pa.ChunkedArray:
    kind = values.type
    _refuse(_nulls(values), AS_OF, "is empty")
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        times = pa.chunked_array([in_calendar(c) for c in values.chunks]).cast(TIMESTAMP, safe=False)
    elif pa.types.is_string(kind) or pa.types.is_large_string(kind):
        parsed = pd.to_datetime(values.to_pandas(), utc=True, format="ISO8601", errors="coerce")
        _refuse(parsed.isna().to_numpy(), AS_OF, "is no ISO 8601 time", values)
        times = pa.chunked_array([pa.array(parsed.dt.as_unit("us"), TIMESTAMP)])
    else:
        raise LabelsInvalid(
            f"column as_of holds {kind}, not a time", "Write times as 2026-01-31 or 2026-01-31T12:00:00Z."
        )
    micros = np.asarray(times.cast(pa.int64()))
    newest = now() + timedelta(seconds=bounds.future_seconds)
    early, late = to_microseconds(read_moment(bounds.oldest)), to_microseconds(newest)
    _refuse(micros < early, AS_OF, f"is before {bounds.oldest}", times)
    _refuse(micros > late, AS_OF, "is in the future, where no label can be known", times)
    return times


def _numbers(values: pa.ChunkedArray) -> NDArray[np.float64]:
    if pa.types.is_boolean(values.type):
        values = values.cast(pa.int8())
    return np.asarray(pd.to_numeric(values.to_pandas(), errors="coerce"), dtype=np.float64)


def _labels(values: pa.ChunkedArray, classes: int) -> pa.Array:
    numbers = _numbers(values)
    _refuse(_nulls(values), LABEL, "is empty")
    allowed = "neither 0 nor 1" if classes == 2 else f"no whole number from 0 to {classes - 1}"
    _refuse(~np.isin(numbers, np.arange(classes)), LABEL, f"is {allowed}", values)
    return pa.array(numbers.astype(np.int8))


def _folds(source: pa.Table) -> pa.Array:
    values = source[FOLD]
    numbers = _numbers(values)
    whole = (numbers >= 0) & (numbers <= np.iinfo(np.int16).max) & (numbers == np.floor(numbers))
    _refuse(_nulls(values), FOLD, "is empty while other rows have one")
    _refuse(~whole, FOLD, "is no whole number from 0 to 32767", values)
    return pa.array(numbers.astype(np.int16))


def _splits(values: pa.ChunkedArray) -> pa.ChunkedArray:
    texts = values.cast(pa.string())
    _refuse(~np.asarray(pc.is_in(texts, pa.array(SPLITS))), SPLIT, f"is none of {', '.join(SPLITS)}", texts)
    return texts


def _refuse_duplicates(table: pa.Table) -> None:
    frame = table.select([USER_ID, AS_OF]).to_pandas()
    repeated = frame.duplicated(keep="first").to_numpy()
    rows = np.flatnonzero(repeated)
    if len(rows):
        user, moment = frame.iloc[rows[0]]
        raise LabelsInvalid(
            f"row {rows[0] + 1:,}, columns user_id and as_of: {user!r} has two at {moment.isoformat()}",
            "Keep one label per user and time.",
        )
