"""The time at which each label first arrived, by which label delay is measured.

A label file replaces the one before it, so the first arrivals are kept in another file.
"""

from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from qanchor.errors import NotReady
from qanchor.files import atomic_file
from qanchor.home import Home
from qanchor.names import AS_OF, USER_ID
from qanchor.times import TIMESTAMP

ARRIVED = "arrived"


def arrivals_path(home: Home, scenario: str) -> Path:
    """The file of the arrivals of a scenario's labels."""
    return home.label_arrivals / f"{scenario}.parquet"


def arrivals(labels: pa.Table, known: pa.Table | None, otherwise: datetime) -> pa.Table:
    """The time at which each label first arrived.

    Args:
        labels: rows with user_id and as_of, each pair once.
        known: earlier arrivals, as this function returns them; None: nothing is known.
        otherwise: arrival of labels without an earlier one, UTC.

    Returns:
        user_id, as_of and arrived, sorted by user and time.
    """
    keys = labels.select([USER_ID, AS_OF])
    now = pa.scalar(otherwise.astimezone(UTC), TIMESTAMP)
    if known is None:
        table = keys.append_column(ARRIVED, pa.array([now.as_py()] * len(keys), TIMESTAMP))
    else:
        table = keys.join(known, [USER_ID, AS_OF], join_type="left outer")
        table = table.set_column(2, ARRIVED, pc.fill_null(table[ARRIVED], now))
    return table.sort_by([(USER_ID, "ascending"), (AS_OF, "ascending")])


def read_arrivals(home: Home, scenario: str) -> pa.Table | None:
    """The stored arrivals; None where there are none.

    Raises:
        NotReady: the file is damaged; load the labels again.
    """
    path = arrivals_path(home, scenario)
    if not path.exists():
        return None
    try:
        return pq.read_table(path).cast(
            pa.schema([(USER_ID, pa.string()), (AS_OF, TIMESTAMP), (ARRIVED, TIMESTAMP)])
        )
    except (OSError, pa.ArrowInvalid) as error:
        raise NotReady(
            f"{path} cannot be read: {error}", f"Delete it and run `qanchor-cli labels load {scenario} FILE`."
        ) from error


def write_arrivals(home: Home, scenario: str, table: pa.Table) -> None:
    """Replace the arrivals of a scenario's labels, in one step."""
    with atomic_file(arrivals_path(home, scenario)) as staged:
        pq.write_table(table, staged)
