"""Time: UTC with microseconds everywhere. Its Arrow type, its units, and the ways a moment is read."""

from datetime import UTC, date, datetime, timedelta
from typing import Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from qanchor.errors import InputError

DAY_SECONDS: Final = 86_400
HOUR_US: Final = 3_600_000_000
DAY_US: Final = 86_400_000_000
TIMESTAMP: Final = pa.timestamp("us", tz="UTC")
EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def now() -> datetime:
    """The current moment, UTC."""
    return datetime.now(UTC)


def as_utc(moment: datetime) -> datetime:
    """A moment in UTC; one without a zone is taken as UTC already."""
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def read_moment(value: object, what: str = "as_of") -> datetime:
    """A moment in any of the forms that people, pandas and numpy write, as UTC.

    Args:
        value: ISO 8601 text, datetime, date, pandas Timestamp or numpy datetime64; without a zone: UTC.
        what: the name of the option or argument, for the message.

    Raises:
        InputError: the value is no moment; NaT and NaN are none.
    """
    try:
        if isinstance(value, str):
            moment = datetime.fromisoformat(value.strip())
        elif isinstance(value, np.datetime64):
            moment = value.astype("datetime64[us]").item()
        elif isinstance(value, datetime):
            moment = value.to_pydatetime() if hasattr(value, "to_pydatetime") else value
        elif isinstance(value, date):
            moment = datetime(value.year, value.month, value.day, tzinfo=UTC)
        else:
            raise ValueError
        if moment is None or moment != moment:  # noqa: PLR0124  # NaT is a datetime unlike itself
            raise ValueError
        return as_utc(moment)
    except (ValueError, TypeError, OverflowError):
        raise InputError(
            f"{what} {value!r} is no date", "Write it like 2026-08-01 or 2026-08-01T12:00."
        ) from None


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


def timestamps(microseconds: NDArray[np.int64]) -> pa.Array:
    """Microseconds UTC, (rows,), as an Arrow array of times."""
    return pa.array(microseconds, pa.int64()).cast(TIMESTAMP)
