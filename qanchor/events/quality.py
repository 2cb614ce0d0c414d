"""Checks a file's rows exactly as the Kafka consumer checks messages, most of them column by column.

A row passes the fast path only if every rule of EventDecoder certainly holds. All others go through the
decoder one by one, which accepts them after all or gives the reason.
"""

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import repeat
from typing import Any, Final

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from qanchor import names
from qanchor.events.columns import content_id
from qanchor.events.schema import MAX_ID_LENGTH, EventDecoder, EventRejected
from qanchor.times import TIMESTAMP, in_calendar
from qanchor.workspace import FieldSpec

Mask = NDArray[np.bool_]
_NUMBER: Final = r"^\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,3})?\s*$"
_MISSING: Final = ["nan", "NaN", "NAN", "null", "NULL", "None", "NA", "N/A", "<NA>"]
_INSTANT: Final = r"^\d{4}-\d\d-\d\d[T ]\d\d:\d\d:[0-5]\d(\.\d{1,6})?(Z|[+-]\d\d:\d\d)$"


@dataclass(frozen=True)
class Rejection:
    """A row that is no valid event.

    Args:
        row: number of the row in the file, from 1, without the header; 0: a line that could not be split.
        reason: short, snake_case.
        detail: one sentence.
        event: values as they were read.
    """

    row: int
    reason: str
    detail: str
    event: Mapping[str, Any]


@dataclass(frozen=True)
class Checked:
    """One batch after the check.

    Args:
        table: the valid events, with the event log's columns.
        rejections: the other rows.
        rows: int64 [events], number of each event's row in the file, from 1.
    """

    table: pa.Table
    rejections: tuple[Rejection, ...]
    rows: NDArray[np.int64]


@dataclass(frozen=True)
class _Column:
    values: pa.Array  # the log's type; null where absent or odd
    odd: Mask  # present, but not of that type
    original: pa.Array

    def at(self, row: int) -> Any:
        return (self.original if self.odd[row] else self.values)[row].as_py()

    def lengths_within(self, lowest: int, highest: int) -> Mask:
        lengths = np.asarray(pc.fill_null(pc.utf8_length(self.values), lowest))
        return (lengths >= lowest) & (lengths <= highest) & ~self.odd

    @property
    def absent(self) -> Mask:
        return _mask(self.values.is_null()) & ~self.odd

    def is_valid(self, spec: FieldSpec) -> Mask:
        """By row: whether the value keeps the field's rules."""
        if spec.type == "number":
            within = pc.and_(
                pc.greater_equal(self.values, spec.minimum), pc.less_equal(self.values, spec.maximum)
            )
            fits = _mask(within, True) & ~self.odd
        else:
            fits = self.lengths_within(0, spec.max_length)
        return fits if spec.optional else fits & ~self.absent


class EventChecker:
    """Checks the batches of ONE file in order; ids of rows without one count repeats within the file.

    Args:
        decoder: the rules.
        is_text: parse numbers and times from text (CSV).
        assume_utc: read times without a zone as UTC instead of refusing them.
    """

    def __init__(self, decoder: EventDecoder, is_text: bool = False, assume_utc: bool = False) -> None:
        self._decoder = decoder
        self._is_text = is_text
        self._assume_utc = assume_utc
        self._fields = decoder.workspace.event_columns
        self._repeats: Counter[str] = Counter()
        self._row = 0

    def check(self, batch: pa.Table) -> Checked:
        """Split the next batch into valid events and rejections."""
        columns = {name: self._column(name, batch[name].combine_chunks()) for name in batch.column_names}
        accepted = np.zeros(batch.num_rows, dtype=bool)
        common = self._common(columns)
        modality = columns[names.MODALITY]
        for name, spec in self._decoder.workspace.modalities.items():
            valid = _mask(pc.equal(modality.values, name)) & common
            for field, field_spec in spec.fields.items():
                valid &= columns[field].is_valid(field_spec) if field in columns else field_spec.optional
            accepted |= valid
        late, late_rows, rejections = self._one_by_one(columns, np.flatnonzero(~accepted))
        table = self._table(columns, np.flatnonzero(accepted))
        rows = np.concatenate([np.flatnonzero(accepted), np.array(late_rows, np.int64)]) + self._row + 1
        if late:
            extra = self._decoder.tables.in_order(late)
            ids = [
                self._nth(i) if e.event_id is None else i
                for i, e in zip(extra[0].to_pylist(), late, strict=True)
            ]
            table = pa.concat_tables([table, extra.set_column(0, names.EVENT_ID, pa.array(ids, pa.string()))])
        self._row += batch.num_rows
        return Checked(table, tuple(rejections), rows)

    def _column(self, name: str, values: pa.Array) -> _Column:
        if isinstance(values, pa.ChunkedArray):  # no chunk at all
            values = pa.array([], values.type)
        if pa.types.is_dictionary(values.type):
            values = values.dictionary_decode()
        values = in_calendar(values)
        if name == names.EVENT_TIME and self._assume_utc:
            values = _with_zone(values)
        if name == names.EVENT_TIME:
            typed = self._times(values)
        elif self._fields.get(name) == "number":
            typed = self._numbers(values)
        else:
            typed = _texts(values)
        odd = _mask(values.is_valid()) & _mask(typed.is_null())
        if self._fields.get(name) == "number":
            odd &= ~_reads_as_missing(values)
        return _Column(typed, odd, values)

    def _numbers(self, values: pa.Array) -> pa.Array:
        kind = values.type
        if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind):
            numbers = values.cast(pa.float64(), safe=False)
            return pc.if_else(pc.is_finite(numbers), numbers, pa.scalar(None, pa.float64()))
        if self._is_text and pa.types.is_string(kind):
            readable = pc.if_else(pc.match_substring_regex(values, _NUMBER), values, pa.scalar(None, kind))
            numbers = pc.utf8_trim_whitespace(readable).cast(pa.float64())
            return pc.if_else(pc.is_finite(numbers), numbers, pa.scalar(None, pa.float64()))
        return pa.nulls(len(values), pa.float64())

    @staticmethod
    def _times(values: pa.Array) -> pa.Array:
        kind = values.type
        if pa.types.is_timestamp(kind) and kind.tz is not None:
            return values.cast(TIMESTAMP, safe=False)
        if pa.types.is_string(kind) or pa.types.is_large_string(kind):
            readable = pc.if_else(pc.match_substring_regex(values, _INSTANT), values, pa.scalar(None, kind))
            try:
                return readable.cast(TIMESTAMP)
            except pa.ArrowInvalid:  # an impossible date such as 30 February somewhere: the decoder names it
                possible = pd.to_datetime(readable.to_pandas(), utc=True, format="ISO8601", errors="coerce")
                return pa.array(possible.dt.as_unit("us"), TIMESTAMP)
        return pa.nulls(len(values), TIMESTAMP)

    def _common(self, columns: Mapping[str, _Column]) -> Mask:
        user, time = columns[names.USER_ID], columns[names.EVENT_TIME]
        low, high = (pa.scalar(t, TIMESTAMP) for t in (self._decoder.oldest, self._decoder.latest()))
        within = pc.and_(pc.greater_equal(time.values, low), pc.less_equal(time.values, high))
        valid = user.lengths_within(1, MAX_ID_LENGTH) & ~user.absent & _mask(within)
        if names.EVENT_ID in columns:
            valid &= columns[names.EVENT_ID].lengths_within(1, MAX_ID_LENGTH)
        return valid

    def _one_by_one(
        self, columns: Mapping[str, _Column], rows: NDArray[np.int64]
    ) -> tuple[list[Any], list[int], list[Rejection]]:
        accepted, accepted_rows, rejections = [], [], []
        for row in rows.tolist():
            event = {name: value for name, c in columns.items() if (value := c.at(row)) is not None}
            try:
                accepted.append(self._decoder.convert(event))
                accepted_rows.append(row)
            except EventRejected as error:
                rejections.append(Rejection(self._row + row + 1, error.reason, error.detail, event))
        return accepted, accepted_rows, rejections

    def _table(self, columns: Mapping[str, _Column], rows: NDArray[np.int64]) -> pa.Table:
        taken = pa.array(rows)
        count = len(rows)
        log: dict[str, Any] = {
            name: columns[name].values.take(taken)
            for name in (names.USER_ID, names.EVENT_TIME, names.MODALITY)
        }
        for field in self._fields:
            log[field] = self._owned(field, columns, taken, log[names.MODALITY])
        log[names.SOURCE_PARTITION] = pa.nulls(count, pa.int32())
        log[names.SOURCE_OFFSET] = pa.nulls(count, pa.int64())
        log[names.INGESTED_AT] = pa.array(
            np.full(count, np.datetime64(datetime.now(UTC).replace(tzinfo=None), "us")), TIMESTAMP
        )
        log[names.EVENT_ID] = self._ids(columns.get(names.EVENT_ID), taken, log)
        return pa.table([log[name] for name in self._decoder.schema.names], schema=self._decoder.schema)

    def _owned(
        self, field: str, columns: Mapping[str, _Column], taken: pa.Array, modality: pa.Array
    ) -> pa.Array:
        kind = self._decoder.schema.field(field).type
        if field not in columns:
            return pa.nulls(len(taken), kind)
        modalities = self._decoder.workspace.modalities
        owners = [name for name, spec in modalities.items() if field in spec.fields]
        values = columns[field].values.take(taken)
        if len(owners) == len(modalities):
            return values
        # As on the wire: a field of another modality is ignored.
        return pc.if_else(pc.is_in(modality, pa.array(owners, pa.string())), values, pa.scalar(None, kind))

    def _ids(self, present: _Column | None, taken: pa.Array, log: Mapping[str, pa.Array]) -> pa.Array:
        ids = pa.nulls(len(taken), pa.string()) if present is None else present.values.take(taken)
        if not ids.null_count:
            return ids
        derived = np.array(ids.to_numpy(zero_copy_only=False), dtype=object)
        lacking = _mask(ids.is_null())
        modality = log[names.MODALITY]
        for name, spec in self._decoder.workspace.modalities.items():
            rows = np.flatnonzero(_mask(pc.equal(modality, name)) & lacking)
            if len(rows):
                part = {
                    key: log[key].take(pa.array(rows))
                    for key in (names.USER_ID, names.EVENT_TIME, *spec.fields)
                }
                derived[rows] = list(map(self._nth, _content_ids(name, sorted(spec.fields), part)))
        return pa.array(derived, pa.string())

    def _nth(self, content: str) -> str:
        # Two equal rows of one file are two events.
        seen = self._repeats[content]
        self._repeats[content] = seen + 1
        return (
            content if not seen else hashlib.blake2b(f"{content}-{seen}".encode(), digest_size=12).hexdigest()
        )


def _texts(values: pa.Array) -> pa.Array:
    kind = values.type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_integer(kind):
        return values.cast(pa.string())  # ids and codes are often stored as whole numbers
    return pa.nulls(len(values), pa.string())


def _mask(truth: pa.Array, otherwise: bool = False) -> Mask:
    """A column of truth values as numpy bool; null counts as `otherwise`."""
    return np.asarray(pc.fill_null(truth, otherwise)).astype(bool)


def _reads_as_missing(values: pa.Array) -> Mask:
    if pa.types.is_floating(values.type):
        missing = pc.is_nan(values)  # how pandas writes a missing number
    elif pa.types.is_string(values.type):
        missing = pc.is_in(values, pa.array(_MISSING))
    else:
        return np.zeros(len(values), dtype=bool)
    return _mask(missing)


def _with_zone(values: pa.Array) -> pa.Array:
    kind = values.type
    if (pa.types.is_timestamp(kind) and kind.tz is None) or pa.types.is_date(kind):
        return values.cast(TIMESTAMP, safe=False)
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        return values
    values = pc.replace_substring_regex(values, r"^(\d{4}-\d\d-\d\d)$", r"\1T00:00")
    values = pc.replace_substring_regex(values, r"^(\d{4}-\d\d-\d\d[T ]\d\d:\d\d)$", r"\1:00")
    return pc.replace_substring_regex(values, r"^([^Zz+]{10}[T ][\d:]{8}(\.\d+)?)$", r"\1Z")


def _content_ids(modality: str, fields: list[str], part: Mapping[str, Any]) -> Iterator[str]:
    users = part[names.USER_ID].to_pylist()
    times = part[names.EVENT_TIME].cast(pa.int64()).to_pylist()
    pairs: list[Any] = []
    for name in fields:
        pairs += (repeat(name), part[name].to_pylist())
    complete = not any(part[name].null_count for name in fields)
    for user, time, *values in zip(users, times, *pairs, strict=False):
        yield content_id(user, time, modality, values if complete else _present(values))


def _present(values: list[Any]) -> list[Any]:
    return [part for i in range(0, len(values), 2) if values[i + 1] is not None for part in values[i : i + 2]]
