"""The event log: Parquet files by event date, staged, committed in one SQL transaction, then renamed.

`event_date=YYYY-MM-DD/NAME.parquet` is data. `_staging/` holds what no commit knows yet: readers never
look there. Killed at any point, the next writer's `recover` leaves the log as if an append had happened
whole or not at all.
"""

import fcntl
import os
import secrets
import time
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from sqlalchemy import Engine

from qanchor import names
from qanchor.errors import DatabaseUnavailable, NotReady
from qanchor.files import full_disk_as_error, sync_all
from qanchor.registry import ledger
from qanchor.registry.ledger import LedgerEntry, OffsetRanges, StagedFile
from qanchor.registry.tables import LoadedFile
from qanchor.storage.event_log.reading import LogReader, hidden_files, hide_files
from qanchor.workspace import Workspace

_PATIENCE_SECONDS: Final = 1.0  # a recovery elsewhere holds a lock for an instant to see whether it is free
_SKIPPED_BY: Final = (names.EVENT_TIME, names.USER_ID, names.SOURCE_PARTITION, names.SOURCE_OFFSET)


def writer_of(file_name: str) -> str:
    """The name of the writer of a file of the log; it may hold hyphens itself."""
    return file_name.rsplit("-", 2)[0]


class WriterLock:
    """The lock of one writer, `OWNER.lock` in the staging folder: freed by the kernel when its process dies.

    Args:
        path: the lock file; its folder is created when the lock is taken.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._held: weakref.finalize[..., Any] | None = None

    @property
    def is_held(self) -> bool:
        """Whether this object holds the lock."""
        return self._held is not None and self._held.alive

    def take(self) -> None:
        """Take the lock; taking it again changes nothing.

        Raises:
            NotReady: another process writes under this name.
        """
        if self.is_held:
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while (handle := _try_lock(self._path)) is None:
            if time.monotonic() > deadline:
                raise NotReady(
                    f"another process writes the event log as {self._path.stem!r}",
                    "Stop it, or give this one another name.",
                )
            time.sleep(0.02)
        self._held = weakref.finalize(self, os.close, handle)  # a log that is forgotten lets go, too

    def release(self) -> None:
        """Give the lock up, if it is held."""
        if self._held is not None and self._held.alive:
            self._path.unlink(missing_ok=True)
            self._held()
        self._held = None


def remove_if_free(path: Path) -> bool:
    """Remove a lock file that no living process holds.

    Returns:
        Whether its writer is gone; a missing lock has none.
    """
    try:
        handle = _try_lock(path, create=False)
    except FileNotFoundError:
        return True
    if handle is None:
        return False
    path.unlink(missing_ok=True)
    os.close(handle)
    return True


def _try_lock(path: Path, create: bool = True) -> int | None:
    handle = os.open(path, os.O_WRONLY | os.O_CLOEXEC | (os.O_CREAT if create else 0), 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Its holder may have removed the file between the opening and the locking: that lock guards nothing.
        if os.fstat(handle).st_ino == path.stat().st_ino:
            return handle
    except (BlockingIOError, FileNotFoundError):
        pass
    os.close(handle)
    return None


class EventLog(LogReader):
    """The event log of one workspace, for one writer and any number of readers.

    Args:
        root: folder of the log, `Home.events`; created by the first write.
        workspace: names the columns.
        owner: name of the writer, the start of every file name; default: new for each instance.
    """

    def __init__(self, root: Path, workspace: Workspace, owner: str | None = None) -> None:
        super().__init__(root, workspace)
        self.owner = owner or f"w{secrets.token_hex(4)}"
        self._staging = root / "_staging"
        self._sequence = 0
        self.unconfirmed: list[str] = []  # published, which the ledger does not know yet
        self.commit_seconds = 0.0  # how long the last append's transaction took
        self._lock = WriterLock(self._lock_path(self.owner))

    def _lock_path(self, owner: str) -> Path:
        return self._staging / f"{owner}.lock"

    def stage(self, table: pa.Table) -> list[StagedFile]:
        """Write a table's rows to staged files, one for each event date, and force them to the disk.

        Args:
            table: rows with this log's schema.

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
        """The path of a file until it is published."""
        return self._staging / file.name

    def discard(self, staged: Iterable[StagedFile]) -> None:
        """Remove staged files that no commit will know."""
        for file in staged:
            self.staged_path(file).unlink(missing_ok=True)

    def publish(self, staged: Iterable[StagedFile]) -> None:
        """Rename committed files into place; a file that is there already is left alone.

        Raises:
            NotReady: a committed file is gone; restore it from a backup.
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
        abandoned = by_owner.pop(self.owner, []) if self._lock.is_held else []
        for owner, files in by_owner.items():
            if remove_if_free(self._lock_path(owner)):
                abandoned += files
        return abandoned

    def recover(self, committed: Mapping[str, str], abandoned: Sequence[str] = ()) -> int:
        """Finish what killed writers began.

        Args:
            committed: event date by name of every file that the ledger holds as 'committed'; read AFTER
                `abandoned` was listed, or a file committed in between would be removed.
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
            replaced: event date by name; the files that replace them have been published.
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

    def close(self) -> None:
        """Give up the writer's lock."""
        self._lock.release()

    def claim(self) -> None:
        """Take the owner's lock, once; the first write does so by itself.

        Raises:
            NotReady: another process writes under this name.
        """
        self._lock.take()


def append(
    engine: Engine,
    log: EventLog,
    tables: pa.Table | Iterable[pa.Table],
    offsets: OffsetRanges | None = None,
    loaded: LoadedFile | None = None,
) -> int:
    """Add events to the log, once: rows, offsets and the loaded file count together or not at all.

    Args:
        engine: the registry.
        log: the event log.
        tables: one table with the log's columns, or several that are drawn one after another.
        offsets: what was read from Kafka to get them.
        loaded: the file they came from; it may be filled while `tables` is drawn.

    Returns:
        Number of rows.

    Raises:
        OffsetsFenced: another consumer owns a partition now; nothing was added.
        DiskFull: no space; nothing was added.
        DatabaseUnavailable: the database failed; call `recover` before the next append.
    """
    staged: list[StagedFile] = []
    try:
        for table in [tables] if isinstance(tables, pa.Table) else tables:
            staged += log.stage(table)
        began = time.monotonic()
        ledger.commit_entry(engine, LedgerEntry(staged, offsets, loaded, tuple(log.unconfirmed)))
        log.commit_seconds = time.monotonic() - began
    except DatabaseUnavailable:
        raise  # it may have committed all the same: the staged files stay until recovery knows
    except BaseException:
        log.discard(staged)
        raise
    log.publish(staged)
    log.unconfirmed = [file.name for file in staged]
    return sum(file.rows for file in staged)


def recover(engine: Engine, log: EventLog) -> int:
    """Finish what killed writers began; run before the first append and after a database failure.

    Returns:
        Number of files that were renamed into place.
    """
    abandoned = log.abandoned()  # before the ledger is read, see EventLog.recover
    replaced = ledger.replaced_files(engine)  # before what replaces them: that has to be in place first
    committed = ledger.committed_files(engine)
    renamed = log.recover(committed, abandoned)
    log.hide(replaced)
    settle(engine, log)
    in_place = {path.name for path in log.files()} if committed else set()
    ledger.mark_published(engine, in_place & set(committed))
    return renamed


def settle(engine: Engine, log: EventLog) -> None:
    """Tell the ledger which files have been renamed into place since the last commit."""
    ledger.mark_published(engine, log.unconfirmed)
    log.unconfirmed = []


def _by_date(table: pa.Table) -> Iterator[tuple[str, pa.Table]]:
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


def parquet_options(schema: pa.Schema) -> dict[str, Any]:
    """Arguments for pyarrow to write a file of the log."""
    # A dictionary of ids that never repeat costs time and saves nothing; lz4 takes two thirds of zstd's time.
    texts = [field.name for field in schema if pa.types.is_string(field.type)]
    return {
        "compression": "lz4",
        "use_dictionary": [name for name in texts if name != names.EVENT_ID],
        # Small files are mostly headers: without the rest of them writing takes three quarters of the time.
        "write_statistics": list(_SKIPPED_BY),
        "store_schema": False,
    }


def _write(table: pa.Table, path: Path) -> None:
    with path.open("wb") as file:
        pq.write_table(table, file, **parquet_options(table.schema))
