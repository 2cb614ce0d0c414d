"""A copy of the event log by user: what a few users did, without reading what all others did.

The log is laid out by date, so a user's events are in every file of it. A backfill, which reads the whole log
anyway, leaves its events sorted by user in the cache: parts of small row groups, with a list of the users of
each group. The copy is of one moment and names the files of the log that it was made from. What came later is
in other files; a date of which a file is gone (compaction replaces files) is left out of the copy and read
from the log. So deleting the copy, whole or in part, only costs time.
"""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from qanchor.names import EVENT_DATE, EVENT_TIME, USER_ID
from qanchor.storage.event_log.reading import LogReader, open_files
from qanchor.storage.sql import VERSION, Connection
from qanchor.times import EPOCH, from_microseconds

log = logging.getLogger(__name__)

FORMAT: Final = 1
ABOUT: Final = "about.json"
GROUPS: Final = "groups.parquet"
HASHES: Final = "hashes.npy"
HASH_DAYS: Final = "hash_days.npy"
PART: Final = "part"
GROUP: Final = "row_group"
FIRST_USER: Final = "first_user"
LAST_USER: Final = "last_user"

Days = NDArray[np.int32]


def file_key(path: Path) -> str:
    """A file of the log, by its date and its name."""
    return f"{path.parent.name}/{path.name}"


def file_day(key: str) -> int:
    """The event date of a file of the log, in days since 1970."""
    name = key.partition("/")[0].removeprefix(f"{EVENT_DATE}=")
    return (date.fromisoformat(name) - EPOCH.date()).days


@dataclass(frozen=True)
class CopyMetadata:
    """What a copy holds.

    Args:
        duckdb: the version whose hash of ids it holds.
        columns: names and SQL types of the log's columns.
        files: the newest arrival in each file of the log that it was made from, microseconds UTC.
        suppressing: dates, in days since 1970, of events because of which a row of another date does not
            count, having the same event_id.
        sizes: bytes of each of its files; one of another size was cut off.
        format: of the folder.
    """

    duckdb: str
    columns: list[list[str]]
    files: dict[str, int]
    suppressing: list[int]
    sizes: dict[str, int]
    format: int = FORMAT


class UserCopy:
    """A copy in the cache; an EventSource, as the log is.

    Args:
        folder: of the copy.
        about: its metadata.
    """

    def __init__(self, folder: Path, about: CopyMetadata) -> None:
        self.folder = folder
        self.about = about

    @property
    def parts(self) -> list[Path]:
        """Its Parquet files, each sorted by user, in the order of their users."""
        return [self.folder / name for name in sorted(self.about.sizes) if name.startswith(PART)]

    def connect(self) -> Connection:
        """A DuckDB connection in UTC with the view `events`, each event of the copy's moment once."""
        return open_files(self.parts, self.about.columns)

    def is_of(self, files: Sequence[Path]) -> bool:
        """Whether it holds these files of the log and no others."""
        return {file_key(path) for path in files} == self.about.files.keys()

    def arrival(self, path: Path) -> datetime | None:
        """The newest arrival in a file of the log, UTC; None where the copy does not know the file."""
        known = self.about.files.get(file_key(path))
        return None if known is None else from_microseconds(known)

    def changed_days(self, files: Sequence[Path]) -> set[int] | None:
        """Dates that have to be read from the log, in days since 1970; None: all of them.

        Args:
            files: of the log now.
        """
        gone = self.about.files.keys() - {file_key(path) for path in files}
        changed = {file_day(key) for key in gone}
        # What one of their events kept from counting might count now.
        return None if changed & set(self.about.suppressing) else changed

    def events_of(self, users: Sequence[str] | NDArray[Any], changed: set[int]) -> pa.Table:
        """The events of some users, but for those of some dates.

        Args:
            users: ascending.
            changed: dates that are left out, in days since 1970.

        Raises:
            OSError: a file is gone or damaged.
            ArrowInvalid: the same.
        """
        chosen = pa.array(users, pa.string())
        tables = [
            self._read(part, rows).filter(pc.field(USER_ID).isin(chosen))
            for part, rows in self._groups_of(np.asarray(users, dtype=object)).items()
        ]
        if not tables:
            return pq.read_schema(self.parts[0]).empty_table()
        table = pa.concat_tables(tables)
        if changed:
            days = _days(table[EVENT_TIME])
            table = table.filter(pa.array(~np.isin(days, list(changed))))
        return table

    def holds(self, hashes: NDArray[np.uint64], changed: set[int]) -> NDArray[np.bool_]:
        """By hash of an event_id: whether an event of that hash is here, on a date that has not changed.

        Args:
            hashes: DuckDB's.
            changed: dates that do not count, in days since 1970.
        """
        known, days = (np.load(self.folder / name, mmap_mode="r") for name in (HASHES, HASH_DAYS))
        low, high = (np.searchsorted(known, hashes, side) for side in ("left", "right"))
        held = low < high
        for row in np.flatnonzero(held) if changed else ():
            held[row] = not set(days[low[row] : high[row]].tolist()) <= changed
        return held

    def _groups_of(self, users: NDArray[np.object_]) -> Mapping[str, list[int]]:
        """The row groups that may hold some of the users, ascending, by part."""
        groups = pq.read_table(self.folder / GROUPS)
        first, last = (np.array(groups[name].to_pylist(), dtype=object) for name in (FIRST_USER, LAST_USER))
        if not len(users) or not len(first):
            return {}
        hit = np.searchsorted(users, first) < np.searchsorted(users, last, side="right")
        by_part: dict[str, list[int]] = {}
        for row in np.flatnonzero(hit).tolist():
            by_part.setdefault(groups[PART][row].as_py(), []).append(groups[GROUP][row].as_py())
        return by_part

    def _read(self, part: str, groups: list[int]) -> pa.Table:
        with pq.ParquetFile(self.folder / part) as file:
            return file.read_row_groups(groups)


def _days(times: pa.ChunkedArray) -> Days:
    return np.asarray(pc.cast(times, pa.date32()).cast(pa.int32())).astype(np.int32)


def open_copy(root: Path, event_log: LogReader, name: str | None = None) -> UserCopy | None:
    """The newest copy of the log; None where there is none that can be trusted.

    Args:
        root: the folder of copies.
        event_log: the log that was copied.
        name: of one folder in it; default: the newest.
    """
    folders = sorted(root.glob("[!.]*/")) if name is None else [root / name]
    for folder in reversed(folders):
        try:
            about = CopyMetadata(**json.loads((folder / ABOUT).read_text(encoding="utf-8")))
            whole = all((folder / file).stat().st_size == size for file, size in about.sizes.items())
        except (OSError, ValueError, TypeError):
            continue
        fits = (about.format, about.duckdb) == (FORMAT, VERSION)
        if whole and fits and about.columns == event_log.sql_columns():
            return UserCopy(folder, about)
        log.info("copy_by_user_refused folder=%s whole=%s", folder.name, whole)
    return None
