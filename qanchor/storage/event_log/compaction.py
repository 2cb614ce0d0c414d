"""Compaction: the many small files of an event date become one sorted file, while others read and write.

A compaction is one more writer. It stages the new file, replaces the old ones in one transaction of the
ledger, renames, and hides the old ones, which are deleted after a grace period. Another compaction of the
same date is refused by that transaction, and `recover` finishes one that was killed.
"""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import date, timedelta
from itertools import chain
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.parquet as pq
from sqlalchemy import Engine

from qanchor import names
from qanchor.progress import Progress, Silent
from qanchor.registry import ledger
from qanchor.registry.ledger import StagedFile
from qanchor.registry.tables import LedgerFile, utc_now
from qanchor.storage.event_log.log import EventLog, parquet_options, recover, settle, writer_of
from qanchor.storage.event_log.reading import distinct_events, expired_notes, hidden_files
from qanchor.storage.sql import quote, spill_failure_as_error

_OWNER: Final = "compacted-"
_MEMORY: Final = "1GB"  # beyond it DuckDB sorts on the disk


@dataclass(frozen=True)
class CompactionRequest:
    """Which event dates are compacted.

    Args:
        before: only event dates before this one.
        older_than: only dates to which nothing was added within this time.
        min_files: only dates with at least this many files.
        file_bytes: size from which a date's events continue in another file.
        grace: how long a replaced file stays for those who read it already.
        batch_rows: rows that are written at a time.
    """

    before: date | None = None
    older_than: timedelta = timedelta()
    min_files: int = 2
    file_bytes: int = 256 << 20
    grace: timedelta = timedelta(hours=1)
    batch_rows: int = 100_000


@dataclass(frozen=True)
class CompactedDate:
    """What became of one event date."""

    event_date: str
    files_before: int
    files_after: int
    events: int
    repeats: int
    bytes_before: int
    bytes_after: int


@dataclass
class CompactionSummary:
    """What one run did.

    Args:
        dates: that were compacted.
        contended: dates that another compaction replaced first.
        unknown: files that the ledger does not know; they are left alone.
        deleted: replaced files that were deleted.
        waiting: replaced files that are kept for their grace period.
    """

    dates: list[CompactedDate] = field(default_factory=list)
    contended: list[str] = field(default_factory=list)
    unknown: int = 0
    deleted: int = 0
    waiting: int = 0


class Compactor:
    """Compacts the event log of one home.

    Args:
        engine: the registry with the ledger.
        log: the event log; the compactor writes under another name.
        request: what is compacted.
        progress: counts events.
    """

    def __init__(
        self, engine: Engine, log: EventLog, request: CompactionRequest, progress: Progress | None = None
    ) -> None:
        self._engine, self._request = engine, request
        self._log = EventLog(log.root, log.workspace, f"{_OWNER}{secrets.token_hex(4)}")
        self._progress = progress or Silent()
        self._summary = CompactionSummary()

    def run(self) -> CompactionSummary:
        """Compact what the request covers; run again, it finds nothing to do.

        Raises:
            DiskFull: no space; the dates that were done stay so.
            DatabaseUnavailable: the database failed; run it again.
        """
        self._log.claim()
        try:
            recover(self._engine, self._log)
            planned = self._plan()
            self._progress.start("compacting", sum(file.rows for files in planned.values() for file in files))
            for event_date, files in planned.items():
                self._compact(event_date, files)
            settle(self._engine, self._log)
            self._delete_expired()
        finally:
            self._log.close()
        return self._summary

    def _plan(self) -> dict[str, list[LedgerFile]]:
        known = ledger.files_by_date(self._engine)
        planned = {}
        for folder in sorted(self._log.root.glob(f"{names.EVENT_DATE}=*")):
            event_date = folder.name.partition("=")[2]
            shown = [path.name for path in self._log.files_of(event_date)]
            files = [known[event_date][name] for name in shown if name in known.get(event_date, {})]
            self._summary.unknown += len(shown) - len(files)
            if _is_due(event_date, files, self._request):
                planned[event_date] = files
        return planned

    def _compact(self, event_date: str, files: Sequence[LedgerFile]) -> None:
        old = [self._log.path(event_date, file.name) for file in files]
        with self._log.staging() as staged:
            self._rewrite(event_date, old, staged)
        if not ledger.replace_files(self._engine, files, staged):
            self._log.discard(staged)
            self._summary.contended.append(event_date)
            return
        self._log.publish(staged)
        self._log.unconfirmed += [file.name for file in staged]
        self._log.hide({file.name: event_date for file in files})
        before, after = sum(file.rows for file in files), sum(file.rows for file in staged)
        self._progress.advance(before - after, event_date)
        placed = [self._log.path(event_date, file.name) for file in staged]
        sizes = (sum(path.stat().st_size for path in paths) for paths in (old, placed))
        self._summary.dates.append(
            CompactedDate(event_date, len(old), len(placed), after, before - after, *sizes)
        )

    def _rewrite(self, event_date: str, old: Sequence[Path], staged: list[StagedFile]) -> None:
        with (
            spill_failure_as_error(f"sort the events of {event_date}"),
            self._log.open_duckdb(memory_limit=_MEMORY) as connection,
        ):
            relation, columns = distinct_events(connection, old)
            listed = ", ".join(quote(name) for name in columns)
            batches = connection.execute(
                f"SELECT {listed} FROM {relation} ORDER BY user_id, event_time, event_id"
            ).to_arrow_reader(self._request.batch_rows)
            self._write(event_date, batches, staged)

    def _write(self, event_date: str, batches: pa.RecordBatchReader, staged: list[StagedFile]) -> None:
        """Write batches to one staged file after another, each up to the size of a file."""
        options = parquet_options(batches.schema)
        for batch in batches:
            staged.append(StagedFile(self._log.new_name(), event_date, 0))
            path, rows = self._log.staged_path(staged[-1]), 0
            with path.open("wb") as file, pq.ParquetWriter(file, batches.schema, **options) as writer:
                for part in chain([batch], batches):
                    writer.write_batch(part)
                    rows += part.num_rows
                    self._progress.advance(part.num_rows, event_date)
                    if file.tell() >= self._request.file_bytes:
                        break
            staged[-1] = replace(staged[-1], rows=rows)

    def _delete_expired(self) -> None:
        for note, files in expired_notes(self._log.root, self._request.grace.total_seconds()):
            for file in files:
                self._summary.deleted += file.exists()
                file.unlink(missing_ok=True)
            ledger.forget_files(self._engine, [file.name for file in files])
            note.unlink(missing_ok=True)  # last: without it the files would be data again
        self._summary.waiting = sum(path.exists() for path in hidden_files(self._log.root))


def _is_due(event_date: str, files: Sequence[LedgerFile], request: CompactionRequest) -> bool:
    if len(files) < request.min_files:
        return False
    if request.before is not None and event_date >= request.before.isoformat():
        return False
    if max(file.created_at for file in files) > utc_now() - request.older_than:
        return False
    writers = {writer_of(file.name) for file in files}
    return len(writers) > 1 or not writers.pop().startswith(_OWNER)  # one compaction's files are done
