"""When each label came in: what label delay is measured by.

A label file replaces the one before it, so the time of a label's first arrival is kept beside it.
"""

import os
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from qanchor.errors import NotReady
from qanchor.home import Home
from qanchor.names import AS_OF, USER_ID

ARRIVED = "arrived"
_MOMENT = pa.timestamp("us", tz="UTC")


def arrivals_path(home: Home, scenario: str) -> Path:
    """Where the arrivals of a scenario's labels are kept."""
    return home.label_arrivals / f"{scenario}.parquet"


def arrivals(labels: pa.Table, known: pa.Table | None, otherwise: datetime) -> pa.Table:
    """When each label first came in.

    Args:
        labels: rows with user_id and as_of, each pair once.
        known: earlier arrivals, as this returns them; None: nothing is known.
        otherwise: of labels without an earlier arrival, UTC.

    Returns:
        user_id, as_of and arrived, sorted by user and time.
    """
    keys = labels.select([USER_ID, AS_OF])
    now = pa.scalar(otherwise.astimezone(UTC), _MOMENT)
    if known is None:
        found = keys.append_column(ARRIVED, pa.array([now.as_py()] * len(keys), _MOMENT))
    else:
        found = keys.join(known, [USER_ID, AS_OF], join_type="left outer")
        found = found.set_column(2, ARRIVED, pc.fill_null(found[ARRIVED], now))
    return found.sort_by([(USER_ID, "ascending"), (AS_OF, "ascending")])


def read_arrivals(home: Home, scenario: str) -> pa.Table | None:
    """The arrivals that were kept; None where none were.

    Raises:
        NotReady: the file is damaged; load the labels again.
    """
    path = arrivals_path(home, scenario)
    if not path.exists():
        return None
    try:
        return pq.read_table(path).cast(
            pa.schema([(USER_ID, pa.string()), (AS_OF, _MOMENT), (ARRIVED, _MOMENT)])
        )
    except (OSError, pa.ArrowInvalid) as error:
        raise NotReady(
            f"{path} cannot be read: {error}", f"Delete it and run `qanchor-cli labels load {scenario} FILE`."
        ) from error


def write_arrivals(home: Home, scenario: str, table: pa.Table) -> None:
    """Keep arrivals in place of those before, in one step."""
    path = arrivals_path(home, scenario)
    path.parent.mkdir(parents=True, exist_ok=True)
    staged = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        pq.write_table(table, staged)
        staged.replace(path)
    finally:
        staged.unlink(missing_ok=True)
