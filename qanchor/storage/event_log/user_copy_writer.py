"""Writes a copy of the event log by user: sorted by DuckDB, which spills to disk, written group by group."""

import json
import logging
import secrets
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from qanchor.errors import DiskFull, NotReady
from qanchor.files import atomic_folder
from qanchor.names import EVENT_ID, EVENT_TIME, INGESTED_AT, USER_ID
from qanchor.storage.event_log.log import WriterLock, parquet_options
from qanchor.storage.event_log.reading import LogReader
from qanchor.storage.event_log.user_copy import (
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
from qanchor.storage.sql import VERSION, Connection, literal, spill_failure_as_error
from qanchor.times import DAY_US

log = logging.getLogger(__name__)

_BATCH_ROWS: Final = 100_000
_MEMORY: Final = "1GB"  # beyond it DuckDB sorts on the disk


@dataclass(frozen=True)
class CopyLayout:
    """Sizes of a copy.

    Args:
        group_rows: rows of a row group. A user's events are read by whole groups: of large ones most rows
            would be other users'.
        part_groups: row groups of a file.
        kept_seconds: how long the copy before is kept, because somebody may be reading it.
    """

    group_rows: int = 4_096
    part_groups: int = 256
    kept_seconds: float = 3_600.0


DEFAULT_LAYOUT: Final = CopyLayout()


def keep_copy(event_log: LogReader, root: Path, layout: CopyLayout = DEFAULT_LAYOUT) -> UserCopy | None:
    """A copy of the log as it is now: the last one if it is still current, or a new one.

    Args:
        event_log: the log to copy.
        root: the folder of copies; older ones in it are deleted.
        layout: sizes of the copy.

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
        copy = last if last is not None and last.is_of(files) else _write(event_log, files, root, layout)
        _remove_others(root, copy.folder.name, layout.kept_seconds)
        return copy
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


def _remove_others(root: Path, kept: str, kept_seconds: float) -> None:
    others = sorted(folder for folder in root.glob("[!.]*/") if folder.name != kept)
    for number, folder in enumerate(reversed(others)):
        if number or folder.stat().st_mtime < time.time() - kept_seconds:
            shutil.rmtree(folder, ignore_errors=True)


def _write(event_log: LogReader, files: Sequence[Path], root: Path, layout: CopyLayout) -> UserCopy:
    for left in root.glob(".*/"):  # of a process that was killed: the lock's holder is the only writer
        shutil.rmtree(left, ignore_errors=True)
    folder = root / f"{time.time_ns():020d}-{secrets.token_hex(3)}"
    with spill_failure_as_error(f"copy the event log to {root}"), atomic_folder(folder) as staged:
        about = _write_files(event_log, files, staged, layout)
    return UserCopy(folder, about)


def _write_files(
    event_log: LogReader, files: Sequence[Path], folder: Path, layout: CopyLayout
) -> CopyMetadata:
    with event_log.connect(memory_limit=_MEMORY, files=files) as connection:
        arrivals = _arrivals(connection, event_log, files)
        ordered = connection.execute(f"SELECT * FROM events ORDER BY {USER_ID}")
        _write_parts(ordered.to_arrow_reader(layout.group_rows), folder, layout)
        parts = literal(folder / f"{PART}*.parquet")
        connection.execute(f"CREATE VIEW copied AS SELECT * FROM read_parquet({parts})")
        _write_hashes(connection, folder)
        suppressing = _suppressing(connection, event_log, files)
    about = CopyMetadata(
        VERSION,
        event_log.sql_columns(),
        arrivals,
        suppressing,
        {path.name: path.stat().st_size for path in sorted(folder.iterdir())},
    )
    (folder / ABOUT).write_text(json.dumps(asdict(about)), encoding="utf-8")
    return about


def _arrivals(connection: Connection, event_log: LogReader, files: Sequence[Path]) -> dict[str, int]:
    rows = event_log.stored_rows(connection, files)
    query = f"SELECT filename, epoch_us(max({INGESTED_AT})) FROM ({rows}) GROUP BY filename"
    return {file_key(Path(name)): newest for name, newest in connection.execute(query).fetchall()}


def _write_parts(batches: pa.RecordBatchReader, folder: Path, layout: CopyLayout) -> None:
    """Parts of some row groups each, and which users every group holds."""
    groups: dict[str, list[Any]] = {PART: [], GROUP: [], FIRST_USER: [], LAST_USER: []}
    column = batches.schema.get_field_index(USER_ID)
    for number, first in enumerate(batches):
        name = f"{PART}-{number:06d}.parquet"
        some = chain([first], islice(batches, layout.part_groups - 1))
        with pq.ParquetWriter(folder / name, batches.schema, **parquet_options(batches.schema)) as writer:
            for group, batch in enumerate(some):
                writer.write_batch(batch, row_group_size=layout.group_rows)
                users = batch.column(column)
                row = (name, group, users[0].as_py(), users[-1].as_py())
                for values, value in zip(groups.values(), row, strict=True):
                    values.append(value)
    kinds = [(PART, pa.string()), (GROUP, pa.int32()), (FIRST_USER, pa.string()), (LAST_USER, pa.string())]
    pq.write_table(pa.table(groups, schema=pa.schema(kinds)), folder / GROUPS)


def _write_hashes(connection: Connection, folder: Path) -> None:
    """Every id's hash and its event's date, by hash; uint64 and int32 [events]."""
    (rows,) = connection.execute("SELECT count(*) FROM copied").fetchone() or (0,)
    hashes, days = (
        np.lib.format.open_memmap(folder / name, "w+", kind, (rows,))
        for name, kind in ((HASHES, np.uint64), (HASH_DAYS, np.int32))
    )
    query = f"""SELECT hash({EVENT_ID}) AS hashed, (epoch_us({EVENT_TIME}) // {DAY_US})::INTEGER AS day
        FROM copied ORDER BY hashed"""
    start = 0
    for batch in connection.execute(query).to_arrow_reader(_BATCH_ROWS):
        for kept, column in zip((hashes, days), batch.columns, strict=True):
            kept[start : start + len(batch)] = column.to_numpy()
        start += len(batch)
    for kept in (hashes, days):
        kept.flush()


def _suppressing(connection: Connection, event_log: LogReader, files: Sequence[Path]) -> list[int]:
    """Dates of events because of which a row of another date does not count."""
    if not connection.execute("SELECT 1 FROM repeats LIMIT 1").fetchall():
        return []
    day = f"(epoch_us({EVENT_TIME}) // {DAY_US})::INTEGER AS day"
    rows = event_log.stored_rows(connection, files)
    days = connection.execute(
        f"""WITH dropped AS
            (SELECT {EVENT_ID}, {day} FROM ({rows}) SEMI JOIN repeats USING (filename, file_row_number)),
        counted AS (SELECT {EVENT_ID}, {day} FROM copied)
        SELECT DISTINCT counted.day FROM counted JOIN dropped USING ({EVENT_ID})
        WHERE counted.day <> dropped.day ORDER BY ALL"""
    ).fetchall()
    return [number for (number,) in days]
