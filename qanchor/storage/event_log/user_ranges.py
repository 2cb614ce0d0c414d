"""The events of ranges of users, so that a shard's histories are read without reading all others.

The log is laid out by date: a user's events are in every file. Sorted by user, in the log's copy or in files
written by one scan, memory and reading time of a shard depend on the shard alone.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from string import Formatter
from typing import Final

from qanchor.files import atomic_folder
from qanchor.names import EVENT_ID, EVENT_TIME, MODALITY, USER_ID
from qanchor.storage.event_log.reading import EventSource, open_files, time_conditions
from qanchor.storage.sql import Connection, literal, quote, spill_failure_as_error
from qanchor.workspace import Workspace

_MEMORY: Final = "1GB"  # beyond it DuckDB sorts on the disk
_GROUP_ROWS: Final = 8_192  # of a row group: a range of users reads whole groups


@dataclass(frozen=True)
class UserRange:
    """The events of one range of users; an EventSource, as the log is.

    Args:
        folder: its Parquet files; without any, it has no events.
        columns: names and SQL types of `events`.
        where: SQL condition on the files' rows that are its events.
    """

    folder: Path
    columns: tuple[tuple[str, str], ...]
    where: str = "true"

    def connect(self) -> Connection:
        """A DuckDB connection in UTC with the view `events`, each event once."""
        return open_files(sorted(self.folder.glob("*.parquet")), self.columns, self.where)


def sort_by_user(
    source: EventSource | Sequence[Path],
    workspace: Workspace,
    folder: Path,
    firsts: Sequence[str],
    *,
    before: datetime | None = None,
    after: datetime | None = None,
) -> list[UserRange]:
    """The events of each range of users, written to a folder in one scan.

    Args:
        source: the event log, or Parquet files that are sorted by user already; these are linked, and each
            range reads its share.
        workspace: names the columns that are kept.
        folder: of the sorted files; created, and left alone if an earlier call has finished it.
        firsts: ascending; range n has the users from firsts[n] on and before firsts[n + 1]. Users before
            firsts[0] are left out.
        before: only events with event_time < before.
        after: only events with event_time >= after.

    Returns:
        One range for each of `firsts`, to be read by `load_event_arrays`.

    Raises:
        DiskFull: the folder's disk has no space for another copy of the events; nothing is left behind.
    """
    if isinstance(source, Sequence):
        folder.mkdir(parents=True)
        for path in source:
            os.link(path, folder / path.name)
        return _ranges(folder, workspace, firsts, time_conditions(before, after))
    if firsts and not folder.exists():
        where = [f"{USER_ID} >= {literal(firsts[0])}", *time_conditions(before, after)]
        listed = ", ".join(quote(name) for name, _ in _columns(workspace))
        with (
            spill_failure_as_error(f"write {folder}"),
            atomic_folder(folder) as staged,
            source.connect() as connection,
        ):
            connection.execute(f"SET memory_limit='{_MEMORY}'")
            connection.execute(
                f"COPY (SELECT {listed} FROM events WHERE {' AND '.join(where)} ORDER BY {USER_ID}) "
                f"TO {literal(staged / 'sorted.parquet')} "
                f"(FORMAT parquet, COMPRESSION lz4, ROW_GROUP_SIZE {_GROUP_ROWS})"
            )
    return _ranges(folder, workspace, firsts, [])


def _ranges(
    folder: Path, workspace: Workspace, firsts: Sequence[str], conditions: Sequence[str]
) -> list[UserRange]:
    columns, bounds = _columns(workspace), [literal(first) for first in firsts]
    starts = [f"{USER_ID} >= {bound}" for bound in bounds]
    stops = [*([f"{USER_ID} < {bound}"] for bound in bounds[1:]), []]
    return [
        UserRange(folder, columns, " AND ".join([start, *stop, *conditions]))
        for start, stop in zip(starts, stops, strict=False)
    ]


def _columns(workspace: Workspace) -> tuple[tuple[str, str], ...]:
    """Columns that histories are made of; other fields and the origin of events are left out."""
    columns = {EVENT_ID: "VARCHAR", USER_ID: "VARCHAR", EVENT_TIME: "TIMESTAMPTZ", MODALITY: "VARCHAR"}
    for spec in workspace.modalities.values():
        columns |= {field: "VARCHAR" for _, field, _, _ in Formatter().parse(spec.text) if field}
        columns |= dict.fromkeys(spec.numbers, "DOUBLE")
    return tuple(columns.items())
