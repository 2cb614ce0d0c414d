"""What `monitor` found, look by look: a Parquet file for each scenario and month."""

import os
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from qanchor.errors import NotReady
from qanchor.home import Home
from qanchor.monitoring.monitor import ScenarioHealth
from qanchor.times import TIMESTAMP

SCHEMA = pa.schema(
    [
        ("at", TIMESTAMP),
        ("head", pa.string()),
        ("check", pa.string()),
        ("value", pa.float64()),
        ("limit", pa.float64()),
        ("state", pa.string()),
        ("note", pa.string()),
    ]
)


def record(home: Home, found: Sequence[ScenarioHealth]) -> None:
    """Add looks to the history; a look at the same moment takes the place of the one before.

    Args:
        home: where state lives.
        found: one look at each scenario.

    Raises:
        NotReady: a file of the history is damaged.
    """
    for health in found:
        path = home.monitoring / health.scenario / f"{health.at:%Y-%m}.parquet"
        rows = [
            {
                "at": health.at,
                "head": health.head,
                "check": check.name,
                "value": check.value,
                "limit": check.limit,
                "state": check.state,
                "note": check.note,
            }
            for check in health.checks
        ]
        table = pa.Table.from_pylist(rows, SCHEMA)
        if path.exists():
            known = _read(path)
            earlier = known.filter(pc.not_equal(known["at"], pa.scalar(health.at, TIMESTAMP)))
            table = pa.concat_tables([earlier, table])
        _write(table.sort_by([("at", "ascending")]), path)


def read_history(home: Home, scenario: str, since: datetime | None = None) -> pa.Table:
    """The looks at a scenario, the earliest first, one row for each figure.

    Args:
        home: where state lives.
        scenario: its name.
        since: earlier looks are left out, UTC.

    Raises:
        NotReady: a file is damaged.
    """
    tables = [_read(path) for path in sorted((home.monitoring / scenario).glob("[!.]*.parquet"))]
    table = pa.concat_tables([SCHEMA.empty_table(), *tables])
    if since is None:
        return table
    return table.filter(pc.greater_equal(table["at"], pa.scalar(since, TIMESTAMP)))


def _read(path: Path) -> pa.Table:
    try:
        return pq.read_table(path, schema=SCHEMA, partitioning=None)
    except (OSError, pa.ArrowInvalid) as error:
        raise NotReady(f"{path} cannot be read: {error}", "Move it away; a new one is begun.") from error


def _write(table: pa.Table, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    staged = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        pq.write_table(table, staged)
        staged.replace(path)
    finally:
        staged.unlink(missing_ok=True)
