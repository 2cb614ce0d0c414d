"""Time: UTC with microseconds everywhere. Its Arrow type, its units, and the ways a moment is read."""

from datetime import UTC, date, datetime, timedelta
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from qanchor.errors import InputError

DAY_SECONDS: Final = 86_400
HOUR_US: Final = 3_600_000_000
DAY_US: Final = 86_400_000_000
TIMESTAMP: Final = pa.timestamp("us", tz="UTC")
_PER_DAY: Final = {"s": DAY_SECONDS, "ms": DAY_US // 1000, "us": DAY_US, "ns": DAY_US * 1000}
EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def now() -> datetime:
    """The current moment, UTC."""
    return datetime.now(UTC)


def as_utc(moment: datetime) -> datetime:
    """A moment in UTC; one without a zone is taken as UTC already.

    Raises:
        InputError: it is none, as NaT is.
    """
    if type(moment) is not datetime:
        return read_moment(moment, "the moment")
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def read_moment(value: object, what: str = "as_of") -> datetime:
    """A moment in any of the forms that people, pandas, numpy and Arrow write, as UTC.

    Args:
        value: ISO 8601 text, datetime, date, pandas Timestamp, numpy datetime64 or Arrow scalar; without a
            zone: UTC. What is finer than a microsecond is cut off.
        what: the name of the option or argument, for the message.

    Raises:
        InputError: the value is no moment of the years 1 to 9999; NaT, NaN, None and numbers are none.
    """
    try:
        moment = _plain(value)
        # NaT is a datetime unlike itself; of a year beyond 9999 numpy makes a number.
        if type(moment) is not datetime or moment != moment:  # noqa: PLR0124
            raise ValueError
        return as_utc(moment)
    except (ValueError, TypeError, OverflowError):
        raise InputError(
            f"{what} {value!r} is no date", "Write it like 2026-08-01 or 2026-08-01T12:00."
        ) from None


def _plain(value: object) -> object:
    """The standard library's datetime of a moment; anything that is none as it is."""
    if isinstance(value, pa.Scalar):
        value = value.as_py()
    if isinstance(value, str):
        return datetime.fromisoformat(value.strip())
    if isinstance(value, np.datetime64) or (isinstance(value, np.ndarray) and value.ndim == 0):
        return value.astype("datetime64[us]").item() if value.dtype.kind == "M" else None
    if hasattr(value, "to_pydatetime"):
        return value.to_pydatetime(warn=False)
    if isinstance(value, date) and not isinstance(value, datetime):
        return datetime(value.year, value.month, value.day, tzinfo=UTC)
    return value


def to_microseconds(moment: datetime) -> int:
    """Whole microseconds from 1970-01-01 UTC to a moment; exact, unlike `timestamp()`."""
    delta = as_utc(moment) - EPOCH
    return (delta.days * DAY_SECONDS + delta.seconds) * 1_000_000 + delta.microseconds


def from_microseconds(moment: int) -> datetime:
    """The moment that many microseconds after 1970-01-01 UTC."""
    return EPOCH + timedelta(microseconds=int(moment))


def column_microseconds(column: pa.ChunkedArray | pa.Array) -> NDArray[np.int64]:
    """A column of times as int64 microseconds UTC, (rows,); a time without a zone is UTC."""
    return np.asarray(column.cast(pa.timestamp("us"), safe=False).cast(pa.int64())).astype(np.int64)


def in_calendar(values: pa.Array) -> pa.Array:
    """Times and dates beyond the years 1 to 9999 as the first and last of them, which are out of range too.

    Python has no such times, and in microseconds the farthest wrap.
    """
    kind = values.type
    if not (pa.types.is_timestamp(kind) or pa.types.is_date(kind)):
        return values
    number = pa.int32() if pa.types.is_date32(kind) else pa.int64()
    per_day = 1 if pa.types.is_date32(kind) else _PER_DAY["ms" if pa.types.is_date(kind) else kind.unit]
    low, high = max(-719_162 * per_day, -(2**63)), min(2_932_896 * per_day, 2**63 - 1)
    counts = values.view(number)
    clipped = pc.min_element_wise(
        pc.max_element_wise(counts, pa.scalar(low, number)), pa.scalar(high, number)
    )
    return pc.if_else(counts.is_null(), counts, clipped).view(kind)


def timestamps(microseconds: NDArray[np.int64]) -> pa.Array:
    """Microseconds UTC, (rows,), as an Arrow array of times."""
    return pa.array(microseconds, pa.int64()).cast(TIMESTAMP)
