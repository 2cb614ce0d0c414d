"""One rule for every kind of moment that people and libraries write."""

from datetime import UTC, date, datetime, timedelta, timezone
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from qanchor.errors import InputError
from qanchor.times import as_utc, read_moment

NOON = datetime(2026, 8, 1, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("value", "moment"),
    [
        ("2026-08-01T12:00", NOON),
        (" 2026-08-01 12:00:00Z ", NOON),
        (np.str_("2026-08-01T14:00+02:00"), NOON),
        ("2026-08-01", NOON.replace(hour=0)),
        (date(2026, 8, 1), NOON.replace(hour=0)),
        (datetime(2026, 8, 1, 12), NOON),
        (datetime(2026, 8, 1, 14, tzinfo=timezone(timedelta(hours=2))), NOON),
        (pd.Timestamp("2026-08-01 12:00"), NOON),
        (pd.Timestamp("2026-08-01 14:00", tz="Europe/Berlin"), NOON),
        (pd.Timestamp("2026-08-01 12:00:00.000000999"), NOON),
        (pd.Series(pd.to_datetime(["2026-08-01 12:00"]))[0], NOON),
        (np.datetime64("2026-08-01T12"), NOON),
        (np.datetime64("2026-08-01T12:00:00.000000000"), NOON),
        (np.array("2026-08-01T12:00", "datetime64[s]"), NOON),
        (pa.scalar(NOON), NOON),
        (pa.scalar(date(2026, 8, 1)), NOON.replace(hour=0)),
    ],
)
def test_a_moment_is_read_in_every_form(value: Any, moment: datetime) -> None:
    read = read_moment(value)
    assert (read, read.tzinfo, type(read)) == (moment, UTC, datetime)


@pytest.mark.parametrize(
    "value",
    [
        *(None, "", "tomorrow", "2026-02-30", float("nan"), 1.5, 0, True, 1785585600, pd.NaT, pd.NA),
        *(np.datetime64("NaT"), np.datetime64("NaT", "ns"), np.datetime64("30000-01-01"), np.float64(3)),
        *(pa.scalar(None, pa.timestamp("us")), np.array(["2026-08-01"], "datetime64[D]"), [NOON]),
        *(
            pd.Timedelta("1h"),
            timedelta(1),
            "0000-01-01",
            datetime.max.replace(tzinfo=timezone(-timedelta(hours=5))),
        ),
    ],
    ids=repr,
)
@pytest.mark.filterwarnings("error")
def test_what_is_no_moment_is_refused(value: Any) -> None:
    with pytest.raises(InputError, match=r"as_of .* is no date\. Write it like 2026-08-01"):
        read_moment(value)


def test_a_library_call_refuses_nat_too() -> None:
    with pytest.raises(InputError, match="the moment NaT is no date"):
        as_utc(pd.NaT)
    assert as_utc(pd.Timestamp("2026-08-01 12:00")) == NOON
