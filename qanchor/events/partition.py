"""The event log split by ranges of users, so that a shard's histories are read without reading all others.

The log is laid out by date: a user's events lie in every file. One scan writes them anew, by user; from then
on memory and reading time of a shard depend on the shard alone, however many users there are.
"""

import os
import secrets
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from string import Formatter
from typing import Any

from qanchor.errors import DiskFull
from qanchor.events.history import EventSource, time_conditions
from qanchor.names import EVENT_ID, EVENT_TIME, MODALITY, USER_ID
from qanchor.storage.event_query import open_events
from qanchor.workspace import Workspace

# DuckDB keeps one open file per part.
_MOST_PARTS = 96
_PART = "part"
_MEMORY = "1GB"
_BUFFERED_ROWS = 200_000


@dataclass(frozen=True)
class EventPart:
    """The events of one range of users; an EventSource, as the log is.

    Args:
        folder: its Parquet files; without any, it has no events.
        columns: names and SQL types of `events`.
        where: SQL; which of the files' rows are its events.
    """

    folder: Path
    columns: tuple[tuple[str, str], ...]
    where: str = "true"

    def connect(self) -> Any:
        """A DuckDB connection in UTC with the view `events`, each event once."""
        return open_events(sorted(self.folder.glob("*.parquet")), self.columns, self.where)


def split_by_user(
    source: EventSource,
    workspace: Workspace,
    folder: Path,
    firsts: Sequence[str],
    *,
    before: datetime | None = None,
    after: datetime | None = None,
) -> list[EventPart]:
    """The events of each range of users, written to a folder in one scan (two, from 97 ranges on).

    Args:
        source: the event log.
        workspace: names the columns that are kept.
        folder: where the parts go; made, and left alone where an earlier call has finished it.
        firsts: ascending; part n has the users from firsts[n] on and before firsts[n + 1]. Users before
            firsts[0] are left out.
        before: only events with event_time < before.
        after: only events with event_time >= after.

    Returns:
        One part for each of `firsts`, to be read by `load_event_arrays`.

    Raises:
        DiskFull: the folder's disk has no space for another copy of the events; nothing is left behind.
    """
    columns = _columns(workspace)
    groups = -(-len(firsts) // _MOST_PARTS)
    if groups <= 1:
        where = [f"{USER_ID} >= '{_escaped(firsts[0])}'"] if firsts else ["false"]
        _write(source, folder, firsts, columns, [*where, *time_conditions(before, after)])
        return [EventPart(folder / f"{_PART}={number}", columns) for number in range(len(firsts))]
    size = -(-len(firsts) // min(groups, _MOST_PARTS))
    outer = split_by_user(source, workspace, folder / "groups", firsts[::size], before=before, after=after)
    parts: list[EventPart] = []
    for number, group in enumerate(outer):
        some = firsts[number * size : (number + 1) * size]
        parts += split_by_user(group, workspace, folder / f"group{number}", some)
        shutil.rmtree(group.folder, ignore_errors=True)
    return parts


def parts_of_sorted(
    files: Sequence[Path],
    workspace: Workspace,
    folder: Path,
    firsts: Sequence[str],
    *,
    before: datetime | None = None,
    after: datetime | None = None,
) -> list[EventPart]:
    """As `split_by_user`, of files that are sorted by user: they are linked, and each part reads its share.

    Args:
        files: Parquet, with at least the columns that histories are made of.
        workspace: names these.
        folder: where the links go; made.
        firsts: as of `split_by_user`.
        before: the same.
        after: the same.
    """
    folder.mkdir(parents=True)
    for path in files:
        os.link(path, folder / path.name)
    columns, times = _columns(workspace), time_conditions(before, after)
    bounds = [f"'{_escaped(first)}'" for first in firsts]
    ranges = [
        [f"{USER_ID} >= {low}", *([f"{USER_ID} < {bounds[number]}"] if number < len(bounds) else [])]
        for number, low in enumerate(bounds, start=1)
    ]
    return [EventPart(folder, columns, " AND ".join([*some, *times])) for some in ranges]


def _write(
    source: EventSource,
    folder: Path,
    firsts: Sequence[str],
    columns: Sequence[tuple[str, str]],
    where: Sequence[str],
) -> None:
    if folder.exists():
        return
    scratch = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.partial")
    scratch.mkdir(parents=True)
    names = ", ".join(f'"{name}"' for name, _ in columns)
    query = (
        f"COPY (SELECT {names}, {_part_number(firsts, 0, len(firsts))} AS {_PART} FROM events "
        f"WHERE {' AND '.join(where)}) TO '{_escaped(scratch)}' "
        f"(FORMAT parquet, COMPRESSION lz4, PARTITION_BY ({_PART}), OVERWRITE_OR_IGNORE)"
    )
    try:
        with _disk_full_named(folder):
            _copy(source, query)
        scratch.rename(folder)
    except OSError:
        if not folder.exists():  # else another process has written it meanwhile
            raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _copy(source: EventSource, query: str) -> None:
    connection = source.connect()
    try:
        for setting in (f"memory_limit='{_MEMORY}'", "preserve_insertion_order=false"):
            connection.execute(f"SET {setting}")
        connection.execute(f"SET partitioned_write_max_open_files={_MOST_PARTS}")
        connection.execute(f"SET partitioned_write_flush_threshold={_BUFFERED_ROWS}")
        connection.execute(query)
    finally:
        connection.close()


@contextmanager
def _disk_full_named(folder: Path) -> Iterator[None]:
    import duckdb

    try:
        yield
    except duckdb.IOException as error:
        if "No space left" not in str(error):
            raise
        raise DiskFull(f"no space left to write {folder}", "Free some space and run it again.") from error


def _columns(workspace: Workspace) -> tuple[tuple[str, str], ...]:
    """What histories are made of; other fields and the origin of events stay behind."""
    columns = {EVENT_ID: "VARCHAR", USER_ID: "VARCHAR", EVENT_TIME: "TIMESTAMPTZ", MODALITY: "VARCHAR"}
    for spec in workspace.modalities.values():
        columns |= {field: "VARCHAR" for _, field, _, _ in Formatter().parse(spec.text) if field}
        columns |= dict.fromkeys(spec.numbers, "DOUBLE")
    return tuple(columns.items())


def _part_number(firsts: Sequence[str], low: int, high: int) -> str:
    """SQL of a row's part by binary search: seven comparisons for 96 parts."""
    if high - low <= 1:
        return str(low)
    middle = (low + high) // 2
    left, right = _part_number(firsts, low, middle), _part_number(firsts, middle, high)
    return f"CASE WHEN {USER_ID} < '{_escaped(firsts[middle])}' THEN {left} ELSE {right} END"


def _escaped(text: str | Path) -> str:
    return str(text).replace("'", "''")
