"""Writing a copy of the event log by user: sorted by DuckDB, which spills to disk, written group by group."""

import json
import logging
import secrets
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from qanchor.errors import DiskFull, NotReady
from qanchor.files import full_disk_as_error, sync, sync_folder
from qanchor.names import EVENT_ID, EVENT_TIME, INGESTED_AT, USER_ID
from qanchor.storage.event_log import EventLog, parquet_options
from qanchor.storage.user_copy import (
    ABOUT,
    FIRST_USER,
    GROUP,
    GROUPS,
    HASH_DAYS,
    HASHES,
    LAST_USER,
    PART,
    CopyMetadata,
    UserCopy,
    file_key,
    open_copy,
)
from qanchor.storage.writer_lock import WriterLock

if TYPE_CHECKING:
    import duckdb

log = logging.getLogger(__name__)

# A user's events are found by whole row groups: small ones, or most of what is read is other users'.
_GROUP_ROWS: Final = 4_096
_PART_GROUPS: Final = 256
_BATCH_ROWS: Final = 100_000
_MEMORY: Final = "1GB"  # beyond it DuckDB sorts on the disk
_KEPT_SECONDS: Final = 3_600.0  # of the copy before: somebody may be reading it
_DAY_US: Final = 86_400_000_000


def keep_copy(event_log: EventLog, root: Path) -> UserCopy | None:
    """A copy of the log as it is now: the last one where it still is, or a new one.

    Args:
        event_log: of which.
        root: the folder of copies; older ones in it are deleted.

    Returns:
        None where there is none: the log is empty, the disk too full, or another process is writing one.
    """
    files = event_log.files()
    if not files:
        return None
    lock = WriterLock(root / ".lock")
    try:
        lock.take()
    except NotReady:
        log.info("copy_by_user_skipped reason=%s", "another process writes one")
        return None
    try:
        last = open_copy(root, event_log)
        found = last if last is not None and last.is_of(files) else _write(event_log, files, root)
        _remove_others(root, found.folder.name)
        return found
    except DiskFull as error:
        log.warning("The log was not copied by user, so refreshes will scan it whole: %s", error)
        remove_copies(root)  # the backfill needs the space more
        return None
    finally:
        lock.release()


def remove_copies(root: Path) -> None:
    """Delete all copies."""
    for folder in root.glob("*/"):
        shutil.rmtree(folder, ignore_errors=True)


def _remove_others(root: Path, kept: str) -> None:
    others = sorted(folder for folder in root.glob("[!.]*/") if folder.name != kept)
    for number, folder in enumerate(reversed(others)):
        if number or folder.stat().st_mtime < time.time() - _KEPT_SECONDS:
            shutil.rmtree(folder, ignore_errors=True)


def _write(event_log: EventLog, files: Sequence[Path], root: Path) -> UserCopy:
    import duckdb

    for left in root.glob(".*/"):  # of a process that was killed: whoever has the lock is the only one
        shutil.rmtree(left, ignore_errors=True)
    folder = root / f"{time.time_ns():020d}-{secrets.token_hex(3)}"
    scratch = root / f".{folder.name}"
    scratch.mkdir(parents=True)
    try:
        with full_disk_as_error(root):
            about = _write_files(event_log, files, scratch)
            sync_folder(scratch)
            scratch.rename(folder)
            sync(root)
    except (duckdb.IOException, duckdb.OutOfMemoryException) as error:
        raise DiskFull(f"no space left for {root}: {str(error).splitlines()[0]}", "Free some.") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return UserCopy(folder, about)


def _write_files(event_log: EventLog, files: Sequence[Path], folder: Path) -> CopyMetadata:
    import duckdb

    with event_log.connect(memory_limit=_MEMORY, files=files) as connection:
        arrivals = _arrivals(connection, event_log, files)
        ordered = connection.execute(f"SELECT * FROM events ORDER BY {USER_ID}")
        _write_parts(ordered.to_arrow_reader(_GROUP_ROWS), folder)
        parts = str(folder / f"{PART}*.parquet").replace("'", "''")
        connection.execute(f"CREATE VIEW copied AS SELECT * FROM read_parquet('{parts}')")
        _write_hashes(connection, folder)
        suppressing = _suppressing(connection, event_log, files)
    about = CopyMetadata(
        duckdb.__version__,
        event_log.sql_columns(),
        arrivals,
        suppressing,
        {path.name: path.stat().st_size for path in sorted(folder.iterdir())},
    )
    (folder / ABOUT).write_text(json.dumps(asdict(about)), encoding="utf-8")
    return about


def _arrivals(
    connection: "duckdb.DuckDBPyConnection", event_log: EventLog, files: Sequence[Path]
) -> dict[str, int]:
    rows = event_log.stored_rows(connection, files)
    query = f"SELECT filename, epoch_us(max({INGESTED_AT})) FROM ({rows}) GROUP BY filename"
    return {file_key(Path(name)): newest for name, newest in connection.execute(query).fetchall()}


def _write_parts(batches: Any, folder: Path) -> None:
    """Parts of some row groups each, and which users every group holds."""
    groups: dict[str, list[Any]] = {PART: [], GROUP: [], FIRST_USER: [], LAST_USER: []}
    place = batches.schema.get_field_index(USER_ID)
    for number, first in enumerate(batches):
        name = f"{PART}-{number:06d}.parquet"
        some = chain([first], islice(batches, _PART_GROUPS - 1))
        with pq.ParquetWriter(folder / name, batches.schema, **parquet_options(batches.schema)) as writer:
            for group, batch in enumerate(some):
                writer.write_batch(batch, row_group_size=_GROUP_ROWS)
                users = batch.column(place)
                row = (name, group, users[0].as_py(), users[-1].as_py())
                for values, value in zip(groups.values(), row, strict=True):
                    values.append(value)
    kinds = [(PART, pa.string()), (GROUP, pa.int32()), (FIRST_USER, pa.string()), (LAST_USER, pa.string())]
    pq.write_table(pa.table(groups, schema=pa.schema(kinds)), folder / GROUPS)


def _write_hashes(connection: "duckdb.DuckDBPyConnection", folder: Path) -> None:
    """Every id's hash and its event's date, by hash; uint64 and int32 [events]."""
    (rows,) = connection.execute("SELECT count(*) FROM copied").fetchone() or (0,)
    hashes, days = (
        np.lib.format.open_memmap(folder / name, "w+", kind, (rows,))
        for name, kind in ((HASHES, np.uint64), (HASH_DAYS, np.int32))
    )
    query = f"""SELECT hash({EVENT_ID}) AS hashed, (epoch_us({EVENT_TIME}) // {_DAY_US})::INTEGER AS day
        FROM copied ORDER BY hashed"""
    start = 0
    for batch in connection.execute(query).to_arrow_reader(_BATCH_ROWS):
        for kept, column in zip((hashes, days), batch.columns, strict=True):
            kept[start : start + len(batch)] = column.to_numpy()
        start += len(batch)
    for kept in (hashes, days):
        kept.flush()


def _suppressing(
    connection: "duckdb.DuckDBPyConnection", event_log: EventLog, files: Sequence[Path]
) -> list[int]:
    """Dates of events because of which a row of another date does not count."""
    if not connection.execute("SELECT 1 FROM repeats LIMIT 1").fetchall():
        return []
    day = f"(epoch_us({EVENT_TIME}) // {_DAY_US})::INTEGER AS day"
    rows = event_log.stored_rows(connection, files)
    found = connection.execute(
        f"""WITH dropped AS
            (SELECT {EVENT_ID}, {day} FROM ({rows}) SEMI JOIN repeats USING (filename, file_row_number)),
        counted AS (SELECT {EVENT_ID}, {day} FROM copied)
        SELECT DISTINCT counted.day FROM counted JOIN dropped USING ({EVENT_ID})
        WHERE counted.day <> dropped.day ORDER BY ALL"""
    ).fetchall()
    return [number for (number,) in found]
