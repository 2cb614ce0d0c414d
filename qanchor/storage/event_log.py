"""The event log: Parquet files by event date, staged, then renamed into place; read through DuckDB.

`event_date=YYYY-MM-DD/NAME.parquet` is data. `_staging/` holds what no commit knows yet: readers never
look there, and what a killed writer left in it is removed or renamed by the next writer's recovery.
"""

import os
import secrets
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from qanchor import names
from qanchor.errors import NotReady
from qanchor.files import full_disk_as_error, sync_all
from qanchor.storage.event_query import distinct_events, file_list, stored_events
from qanchor.storage.replaced import hidden_files, hide_files
from qanchor.storage.writer_lock import WriterLock, remove_if_free
from qanchor.workspace import Workspace

if TYPE_CHECKING:
    import duckdb

_SKIPPED_BY: Final = (names.EVENT_TIME, names.USER_ID, names.SOURCE_PARTITION, names.SOURCE_OFFSET)
_TIME: Final = pa.timestamp("us", "UTC")
_REPEATS_MEMORY: Final = "512MB"
_SQL_TYPES: Final = {
    pa.string(): "VARCHAR",
    pa.float64(): "DOUBLE",
    pa.int32(): "INTEGER",
    pa.int64(): "BIGINT",
    _TIME: "TIMESTAMPTZ",
}


def log_schema(workspace: Workspace) -> Any:
    """The columns of the event log, as a pyarrow schema: the same for every writer and reader."""
    fields = [pa.field(name, pa.string()) for name in (names.EVENT_ID, names.USER_ID)]
    fields += [pa.field(names.EVENT_TIME, _TIME), pa.field(names.MODALITY, pa.string())]
    for name, kind in workspace.event_columns.items():
        fields.append(pa.field(name, pa.float64() if kind == "number" else pa.string()))
    fields += [pa.field(names.SOURCE_PARTITION, pa.int32()), pa.field(names.SOURCE_OFFSET, pa.int64())]
    return pa.schema([*fields, pa.field(names.INGESTED_AT, _TIME)])


@dataclass(frozen=True)
class StagedFile:
    """A file of one event date that is written but not yet data."""

    name: str
    event_date: str
    rows: int


def writer_of(file_name: str) -> str:
    """Who wrote a file of the log; a writer's name may hold hyphens itself."""
    return file_name.rsplit("-", 2)[0]


class EventLog:
    """The event log of one workspace.

    Args:
        root: its folder, `Home.events`; made by the first write.
        workspace: names the columns.
        owner: who writes, the start of every file name; default: new for each instance.
    """

    def __init__(self, root: Path, workspace: Workspace, owner: str | None = None) -> None:
        self.root = root
        self.workspace = workspace
        self.schema = log_schema(workspace)
        self.owner = owner or f"w{secrets.token_hex(4)}"
        self._staging = root / "_staging"
        self._sequence = 0
        self.unconfirmed: list[str] = []  # published, which the ledger does not know yet
        self.commit_seconds = 0.0  # how long the last append's transaction took
        self._lock = WriterLock(self._lock_path(self.owner))

    def _lock_path(self, owner: str) -> Path:
        return self._staging / f"{owner}.lock"

    def files(self) -> list[Path]:
        """The data files, sorted by date and name."""
        return self._list("*")

    def files_of(self, event_date: str) -> list[Path]:
        """The data files of one event date, sorted by name."""
        return self._list(event_date)

    def _list(self, event_date: str) -> list[Path]:
        folder = f"{names.EVENT_DATE}={event_date}"
        hidden = hidden_files(self.root, folder)  # before the files are listed, see replaced.py
        return sorted(path for path in self.root.glob(f"{folder}/[!_.]*.parquet") if path not in hidden)

    def path(self, event_date: str, name: str) -> Path:
        """Where a file lies once it is data."""
        return self.root / f"{names.EVENT_DATE}={event_date}" / name

    def stage(self, table: Any) -> list[StagedFile]:
        """Write a table's rows to staged files, one for each event date, and force them to the disk.

        Args:
            table: pyarrow table with this log's schema.

        Raises:
            DiskFull: no space; what this call wrote is removed again.
        """
        with self.staging() as staged:
            for event_date, part in _by_date(table.cast(self.schema)):
                staged.append(StagedFile(self.new_name(), event_date, part.num_rows))
                _write(part, self.staged_path(staged[-1]))
        return staged

    @contextmanager
    def staging(self) -> Iterator[list[StagedFile]]:
        """A list for the files written meanwhile; they are forced to the disk, or removed if that fails.

        Raises:
            DiskFull: no space.
        """
        self.claim()
        staged: list[StagedFile] = []
        with full_disk_as_error(self.root):
            try:
                yield staged
                sync_all([self.staged_path(file) for file in staged])
                sync_all([self._staging])
            except BaseException:
                self.discard(staged)
                raise

    def new_name(self) -> str:
        """A name for a file of this writer that no other file ever had."""
        self._sequence += 1
        return f"{self.owner}-{time.time_ns():x}-{self._sequence}.parquet"

    def staged_path(self, file: StagedFile) -> Path:
        """Where a file lies until it is published."""
        return self._staging / file.name

    def discard(self, staged: Iterable[StagedFile]) -> None:
        """Remove staged files that no commit will know."""
        for file in staged:
            self.staged_path(file).unlink(missing_ok=True)

    def publish(self, staged: Iterable[StagedFile]) -> None:
        """Rename committed files into place; a file that is there already is left alone.

        Raises:
            NotReady: a committed file is in neither place; restore it from a backup.
        """
        folders: set[Path] = set()
        for file in staged:
            target = self.path(file.event_date, file.name)
            if target.parent not in folders:
                target.parent.mkdir(parents=True, exist_ok=True)
                folders.add(target.parent)
            try:
                self.staged_path(file).rename(target)
            except FileNotFoundError:
                if not target.exists():
                    raise NotReady(
                        f"the event log has lost the committed file {file.name}",
                        "Restore it from a backup, or delete its row in ledger_files.",
                    ) from None
        sync_all(folders)
        if folders:
            sync_all([self.root])

    def abandoned(self) -> list[str]:
        """Names of staged files whose writer is gone: its lock is free, so it can commit nothing more."""
        by_owner: dict[str, list[str]] = {lock.stem: [] for lock in self._staging.glob("*.lock")}
        for file in self._staging.glob("*.parquet"):
            by_owner.setdefault(writer_of(file.name), []).append(file.name)
        found = by_owner.pop(self.owner, []) if self._lock.is_held else []
        for owner, files in by_owner.items():
            if remove_if_free(self._lock_path(owner)):
                found += files
        return found

    def recover(self, committed: Mapping[str, str], abandoned: Sequence[str] = ()) -> int:
        """Finish what killed writers began.

        Args:
            committed: event date by name of every file that the ledger holds as 'committed'; read AFTER
                `abandoned` was listed, or a file committed in between would be taken for rubbish.
            abandoned: staged files of writers that are gone; those not committed are removed.

        Returns:
            Number of files renamed into place.
        """
        here = {name: day for name, day in committed.items() if (self._staging / name).exists()}
        self.publish(StagedFile(name, day, 0) for name, day in here.items())
        for name in abandoned:
            if name not in committed:
                (self._staging / name).unlink(missing_ok=True)
        return len(here)

    def hide(self, replaced: Mapping[str, str]) -> None:
        """Take replaced files out of new readers' sight; what is hidden or deleted already is left alone.

        Args:
            replaced: event date by name; the files in their place have been published.
        """
        if not replaced:
            return
        hidden = hidden_files(self.root)
        shown: dict[Path, list[str]] = {}
        for name, event_date in replaced.items():
            path = self.path(event_date, name)
            if path not in hidden and path.exists():
                shown.setdefault(path.parent, []).append(name)
        for folder, file_names in shown.items():
            hide_files(folder, file_names)
        sync_all(shown)

    def close(self) -> None:
        """Give up the writer's lock."""
        self._lock.release()

    def open_duckdb(self, threads: int = 0, memory_limit: str | None = None) -> "duckdb.DuckDBPyConnection":
        """A DuckDB connection in UTC that spills into this log's folder; arguments as of `connect`."""
        import duckdb

        config: dict[str, Any] = {"threads": threads or len(os.sched_getaffinity(0))}
        if memory_limit:
            config["memory_limit"] = memory_limit
        connection = duckdb.connect(":memory:", config=config)
        for setting in ("TimeZone='UTC'", "enable_progress_bar=false", "parquet_metadata_cache=true"):
            connection.execute(f"SET {setting}")
        connection.execute("SET temp_directory=?", [str(self.root / "_spill")])
        return connection

    def connect(
        self, threads: int = 0, memory_limit: str | None = None, files: Sequence[Path] | None = None
    ) -> "duckdb.DuckDBPyConnection":
        """A DuckDB connection with the view `events`: this log's columns, each event_id once.

        The view is a snapshot of the files of this moment. Of rows with one event_id the first by
        `_ingested_at` counts. Columns that old files lack are NULL.

        Args:
            threads: DuckDB's threads; 0 takes the usable cores.
            memory_limit: such as "2GB"; default: DuckDB's own.
            files: of the log; default: all there are.
        """
        # Looking for repeats groups every id of the log: beyond this bound it spills to disk.
        connection = self.open_duckdb(threads, memory_limit or _REPEATS_MEMORY)
        paths = [str(path) for path in (self.files() if files is None else files)]
        connection.execute(f"CREATE VIEW events AS {self._query(connection, paths)}")
        if not memory_limit:
            connection.execute("RESET memory_limit")
        return connection

    def stored_rows(self, connection: "duckdb.DuckDBPyConnection", files: Sequence[Path]) -> str:
        """SQL of every row of some files, repeats included: the log's columns, filename, file_row_number."""
        if not files:
            return f"SELECT {self._columns([])}, '' AS filename, 0 AS file_row_number WHERE false"
        relation, present = stored_events(connection, [str(path) for path in files])
        return f"SELECT {self._columns(present)}, filename, file_row_number FROM {relation}"

    def holds(self, table: Any) -> Any:
        """By row of `table`: the log has an event of that id and date already; numpy bool."""
        import duckdb

        days = pc.strftime(table[names.EVENT_TIME], "%Y-%m-%d").unique().to_pylist()
        files = [str(path) for day in days for path in self.files_of(day)]
        if not files:
            return np.zeros(table.num_rows, dtype=bool)
        with duckdb.connect(":memory:", config={"threads": len(os.sched_getaffinity(0))}) as connection:
            known = connection.execute(
                f"SELECT event_id FROM read_parquet({file_list(files)})"
            ).to_arrow_table()
        return pc.is_in(table[names.EVENT_ID], known[names.EVENT_ID]).to_numpy()

    def _query(self, connection: "duckdb.DuckDBPyConnection", files: Sequence[str]) -> str:
        if not files:
            return f"SELECT {self._columns([])} WHERE false"
        relation, present = distinct_events(connection, files)
        return f"SELECT {self._columns(present)} FROM {relation}"

    def sql_columns(self) -> list[list[str]]:
        """Name and SQL type of each of the log's columns."""
        return [[field.name, _SQL_TYPES[field.type]] for field in self.schema]

    def _columns(self, present: Collection[str]) -> str:
        """SQL of the log's columns; those that no file has are NULL."""
        return ", ".join(
            f'"{name}"::{kind} AS "{name}"' if name in present else f'NULL::{kind} AS "{name}"'
            for name, kind in self.sql_columns()
        )

    def claim(self) -> None:
        """Take the owner's lock, once; the first write does so by itself.

        Raises:
            NotReady: another process writes under this name.
        """
        self._lock.take()


def _by_date(table: Any) -> Iterator[tuple[str, Any]]:
    if not table.num_rows:
        return
    dates = pc.cast(table[names.EVENT_TIME], pa.date32())
    if len(dates.unique()) > 1:
        order = pc.sort_indices(dates)
        dates, table = dates.take(order), table.take(order)
    runs = pc.run_end_encode(dates.combine_chunks())
    start = 0
    for end, day in zip(runs.run_ends.to_pylist(), runs.values.to_pylist(), strict=True):
        yield day.isoformat(), table.slice(start, end - start)
        start = end


def parquet_options(schema: Any) -> dict[str, Any]:
    """How the log's files are written, as arguments for pyarrow."""
    # A dictionary of ids that never repeat costs time and saves nothing; lz4 takes two thirds of zstd's time.
    texts = [field.name for field in schema if pa.types.is_string(field.type)]
    return {
        "compression": "lz4",
        "use_dictionary": [name for name in texts if name != names.EVENT_ID],
        # Small files are mostly headers: without the rest of them writing takes three quarters of the time.
        "write_statistics": list(_SKIPPED_BY),
        "store_schema": False,
    }


def _write(table: Any, path: Path) -> None:
    with path.open("wb") as file:
        pq.write_table(table, file, **parquet_options(table.schema))
