"""Reading the event log: which files are data, and SQL that shows each event_id once, whatever they hold.

Compaction hides the files that it replaces from new readers at once and deletes them later, because a reader
that began before has their paths. A note in their folder, `_replaced-*.json`, names them. Readers read the
notes BEFORE they list the files: the replacement is in place before the note is, so nobody ever sees neither.
"""

import json
import os
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from datetime import datetime
from itertools import chain
from pathlib import Path
from typing import Final, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from qanchor import names
from qanchor.files import write_atomically
from qanchor.storage.sql import Connection, connect, file_list, quote
from qanchor.times import TIMESTAMP, to_microseconds
from qanchor.workspace import Workspace

_NOTE: Final = "_replaced-*.json"
_TORN_NOTES: Final = ("._replaced-*.tmp", "_replaced-*.part")  # 0.1.0 wrote the second form
_TORN_SECONDS: Final = 60.0
_REPEATS_MEMORY: Final = "512MB"
_SQL_TYPES: Final = {
    pa.string(): "VARCHAR",
    pa.float64(): "DOUBLE",
    pa.int32(): "INTEGER",
    pa.int64(): "BIGINT",
    TIMESTAMP: "TIMESTAMPTZ",
}


class EventSource(Protocol):
    """Something that shows its events to DuckDB; the event log and its copies by user do."""

    def connect(self) -> Connection:
        """A DuckDB connection in UTC with a view `events` that has each event once."""
        ...


def log_schema(workspace: Workspace) -> pa.Schema:
    """The columns of the event log: the same for every writer and reader."""
    fields = [pa.field(name, pa.string()) for name in (names.EVENT_ID, names.USER_ID)]
    fields += [pa.field(names.EVENT_TIME, TIMESTAMP), pa.field(names.MODALITY, pa.string())]
    for name, kind in workspace.event_columns.items():
        fields.append(pa.field(name, pa.float64() if kind == "number" else pa.string()))
    fields += [pa.field(names.SOURCE_PARTITION, pa.int32()), pa.field(names.SOURCE_OFFSET, pa.int64())]
    return pa.schema([*fields, pa.field(names.INGESTED_AT, TIMESTAMP)])


class LogReader:
    """The event log of one workspace, as readers see it.

    Args:
        root: folder of the log, `Home.events`.
        workspace: names the columns.
    """

    def __init__(self, root: Path, workspace: Workspace) -> None:
        self.root = root
        self.workspace = workspace
        self.schema = log_schema(workspace)

    def files(self) -> list[Path]:
        """The data files, sorted by date and name."""
        return self._list("*")

    def files_of(self, event_date: str) -> list[Path]:
        """The data files of one event date, sorted by name."""
        return self._list(event_date)

    def _list(self, event_date: str) -> list[Path]:
        folder = f"{names.EVENT_DATE}={event_date}"
        hidden = hidden_files(self.root, folder)  # before the files are listed
        return sorted(path for path in self.root.glob(f"{folder}/[!_.]*.parquet") if path not in hidden)

    def path(self, event_date: str, name: str) -> Path:
        """The path of a file once it is data."""
        return self.root / f"{names.EVENT_DATE}={event_date}" / name

    def open_duckdb(self, threads: int = 0, memory_limit: str | None = None) -> Connection:
        """A DuckDB connection in UTC that spills into this log's folder; arguments as of `connect`."""
        return connect(threads, memory_limit, self.root / "_spill")

    def connect(
        self, threads: int = 0, memory_limit: str | None = None, files: Sequence[Path] | None = None
    ) -> Connection:
        """A DuckDB connection with the view `events`: this log's columns, each event_id once.

        The view is a snapshot of the files of this moment. Of rows with one event_id the first by
        `_ingested_at` counts. Columns that old files lack are NULL.

        Args:
            threads: DuckDB's threads; 0 takes the usable cores.
            memory_limit: such as "2GB"; default: that of DuckDB.
            files: of the log; default: all there are.
        """
        # Looking for repeats groups every id of the log: beyond this bound it spills to disk.
        connection = self.open_duckdb(threads, memory_limit or _REPEATS_MEMORY)
        paths = self.files() if files is None else files
        if paths:
            relation, present = distinct_events(connection, paths)
            query = f"SELECT {self._columns(present)} FROM {relation}"
        else:
            query = f"SELECT {self._columns([])} WHERE false"
        connection.execute(f"CREATE VIEW events AS {query}")
        if not memory_limit:
            connection.execute("RESET memory_limit")
        return connection

    def stored_rows(self, connection: Connection, files: Sequence[Path]) -> str:
        """SQL of every row of some files, repeats included: the log's columns, filename, file_row_number."""
        if not files:
            return f"SELECT {self._columns([])}, '' AS filename, 0 AS file_row_number WHERE false"
        _, numbered = _scans(files)
        return f"SELECT {self._columns(_described(connection, numbered))}, {_ROW} FROM {numbered}"

    def holds(self, table: pa.Table) -> NDArray[np.bool_]:
        """By row of `table`: whether the log has an event of that id and date already; (rows,)."""
        days = pc.strftime(table[names.EVENT_TIME], "%Y-%m-%d").unique().to_pylist()
        files = [path for day in days for path in self.files_of(day)]
        if not files:
            return np.zeros(table.num_rows, dtype=bool)
        with connect() as connection:
            stored = connection.execute(f"SELECT {names.EVENT_ID} FROM read_parquet({file_list(files)})")
            known = stored.to_arrow_table()[names.EVENT_ID]
        return np.asarray(pc.is_in(table[names.EVENT_ID], known))

    def sql_columns(self) -> list[list[str]]:
        """Name and SQL type of each of the log's columns."""
        return [[field.name, _SQL_TYPES[field.type]] for field in self.schema]

    def _columns(self, present: Collection[str]) -> str:
        """SQL of the log's columns; those that no file has are NULL."""
        return ", ".join(
            f"{quote(name) if name in present else 'NULL'}::{kind} AS {quote(name)}"
            for name, kind in self.sql_columns()
        )


_ROW: Final = "filename, file_row_number"


def open_files(files: Sequence[Path], columns: Iterable[Sequence[str]], where: str = "true") -> Connection:
    """A DuckDB connection in UTC with the view `events` of files that hold each event once.

    Args:
        files: Parquet; without any, the view has no rows.
        columns: name and SQL type of each of the view's columns.
        where: SQL condition on the rows that it shows.
    """
    connection = connect()
    if files:
        shown = ", ".join(f"{quote(name)}::{kind} AS {quote(name)}" for name, kind in columns)
        query = f"SELECT {shown} FROM read_parquet({file_list(files)}) WHERE {where}"
    else:
        empty = ", ".join(f"NULL::{kind} AS {quote(name)}" for name, kind in columns)
        query = f"SELECT {empty} WHERE false"
    connection.execute(f"CREATE VIEW events AS {query}")
    return connection


def time_conditions(before: datetime | None, after: datetime | None) -> list[str]:
    """SQL for `after <= event_time < before`, in the form that lets DuckDB skip files by their statistics."""
    moments = ((before, "<"), (after, ">="))
    return [
        f"{names.EVENT_TIME} {sign} make_timestamptz({to_microseconds(moment)})"
        for moment, sign in moments
        if moment is not None
    ]


def distinct_events(connection: Connection, files: Sequence[Path]) -> tuple[str, list[str]]:
    """A relation of the files' rows, and its columns; of rows with one event_id the first ingested counts.

    Args:
        connection: gets a temporary table `repeats` of the rows that do not count.
        files: at least one; columns that some of them lack are NULL.

    Returns:
        SQL to put after FROM, and the names of the files' columns.
    """
    plain, numbered = _scans(files)
    columns = _described(connection, plain)
    if not _find_repeats(connection, plain, numbered):
        return plain, columns
    return f"{numbered} ANTI JOIN repeats USING ({_ROW})", columns


def _described(connection: Connection, relation: str) -> list[str]:
    return [row[0] for row in connection.execute(f"DESCRIBE SELECT * FROM {relation}").fetchall()]


def _scans(files: Sequence[Path]) -> tuple[str, str]:
    """SQL that reads the files, without and with each row's file and number."""
    plain = f"read_parquet({file_list(files)}, union_by_name=true, hive_partitioning=false)"
    return plain, plain[:-1] + ", filename=true, file_row_number=true)"


def _find_repeats(connection: Connection, plain: str, numbered: str) -> int:
    # Repeats are few: finding them once here is cheaper than a window function in every query.
    connection.execute(
        f"""CREATE OR REPLACE TEMP TABLE repeats AS SELECT {_ROW} FROM {numbered}
        SEMI JOIN (SELECT event_id FROM {plain} GROUP BY event_id HAVING count(*) > 1) USING (event_id)
        QUALIFY row_number() OVER (PARTITION BY event_id ORDER BY _ingested_at, {_ROW}) > 1"""
    )
    count = connection.execute("SELECT count(*) FROM repeats").fetchone()
    return int(count[0]) if count else 0


def hidden_files(root: Path, folders: str = "*") -> set[Path]:
    """Files that are no longer data.

    Args:
        root: folder of the event log.
        folders: pattern of the date folders to look into.
    """
    return {file for note in root.glob(f"{folders}/{_NOTE}") for file in _files_of(note)}


def hide_files(folder: Path, file_names: Collection[str]) -> None:
    """Take files out of every new reader's sight, all at once.

    Args:
        folder: a date folder.
        file_names: names of files in it whose replacement is in place.
    """
    note = folder / f"_replaced-{time.time_ns():x}-{os.getpid()}.json"
    write_atomically(note, json.dumps({"at": time.time(), "files": sorted(file_names)}))


def expired_notes(root: Path, older_than_seconds: float) -> Iterator[tuple[Path, list[Path]]]:
    """Notes whose grace period is over, each with its files, those deleted already included."""
    for torn in chain.from_iterable(root.glob(f"*/{pattern}") for pattern in _TORN_NOTES):
        with suppress(FileNotFoundError):  # its writer was killed, and another process cleans up too
            if time.time() - torn.stat().st_mtime >= max(older_than_seconds, _TORN_SECONDS):
                torn.unlink()
    for note in sorted(root.glob(f"*/{_NOTE}")):
        if time.time() - json.loads(note.read_text(encoding="utf-8"))["at"] >= older_than_seconds:
            yield note, _files_of(note)


def _files_of(note: Path) -> list[Path]:
    try:
        listed = json.loads(note.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return []  # deleted since it was listed, and its files before it
    return [note.with_name(name) for name in listed["files"]]
