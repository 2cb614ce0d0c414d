"""Loads a file of events into the event log: valid rows once, the others into a file of dead letters."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from sqlalchemy import Engine

from qanchor import names
from qanchor.errors import EventsInvalid, QAnchorError
from qanchor.events.files import EventFile, open_event_file
from qanchor.events.quality import Checked, EventChecker, Rejection
from qanchor.events.schema import EventDecoder
from qanchor.files import atomic_file
from qanchor.progress import Progress, Silent
from qanchor.registry import ledger
from qanchor.registry.tables import LoadedFile
from qanchor.storage.event_log import (
    REUSED_ID,
    REUSED_ID_REMEDY,
    EventLog,
    IdChecker,
    append,
    recover,
    settle,
)
from qanchor.workspace import Workspace


@dataclass
class LoadSummary:
    """The outcome of loading a file.

    Args:
        path: of the file.
        content_hash: over its bytes and the modalities it was checked against.
        rows: number of rows read.
        accepted: number of events added to the log.
        repeated: number of valid events that the log, or an earlier row, had already.
        rejected: number of refused rows, by reason.
        modalities: number of events added, by modality.
        dead_letters: file of the refused rows, if there are any.
        loaded_before: time at which the same content was loaded; then nothing was read.
    """

    path: Path
    content_hash: str
    rows: int = 0
    accepted: int = 0
    repeated: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    modalities: Counter[str] = field(default_factory=Counter)
    dead_letters: Path | None = None
    loaded_before: datetime | None = None


class _DeadLetterFile:
    """Refused rows as JSON lines; a file only if there are any, complete once `finish` ran.

    Args:
        path: of the file.
        opened: closes the file; an error on the way removes it.
    """

    def __init__(self, path: Path, opened: ExitStack) -> None:
        self.path = path
        self._opened = opened
        self._file: TextIO | None = None

    def write(self, row: int, reason: str, detail: str, event: Mapping[str, Any] | str) -> None:
        if self._file is None:
            staged = self._opened.enter_context(atomic_file(self.path))
            self._file = self._opened.enter_context(staged.open("w", encoding="utf-8"))
        line = {"row": row, "reason": reason, "detail": detail, "event": event}
        self._file.write(json.dumps(line, default=str, ensure_ascii=False) + "\n")

    def finish(self) -> Path | None:
        self._opened.close()
        return self.path if self._file else None


@dataclass(frozen=True)
class EventLoader:
    """Loads files of events.

    Args:
        engine: the registry.
        log: the event log.
        decoder: the rules.
        dead_letters: folder of the files of refused rows.
        assume_utc: read times without a zone as UTC instead of refusing them.
    """

    engine: Engine
    log: EventLog
    decoder: EventDecoder
    dead_letters: Path
    assume_utc: bool = False

    def load(self, path: Path, progress: Progress | None = None) -> LoadSummary:
        """Add a file's valid events to the log; the same content again adds nothing.

        Args:
            path: Parquet or CSV.
            progress: counts rows.

        Raises:
            EventsInvalid: it cannot be read, lacks a column, or holds no valid event.
            DiskFull: no space; nothing was added.
        """
        file = open_event_file(path)
        recover(self.engine, self.log)
        summary = LoadSummary(path, content_hash(path, self.decoder.workspace, self.assume_utc))
        before = ledger.find_loaded(self.engine, summary.content_hash)
        if before is not None:
            summary.rows, summary.loaded_before = before.rows, before.created_at.replace(tzinfo=UTC)
            return summary
        name = f"{path.stem}-{summary.content_hash[:12]}.jsonl"
        loaded = LoadedFile(content_hash=summary.content_hash, path=str(path.resolve()), rows=0, rejected=0)
        with ExitStack() as opened:
            letters = _DeadLetterFile(self.dead_letters / name, opened)
            tables = self._tables(file, summary, letters, progress or Silent())
            append(self.engine, self.log, _counted(tables, summary, loaded), loaded=loaded)
        settle(self.engine, self.log)
        return summary

    def _tables(
        self, file: EventFile, summary: LoadSummary, letters: _DeadLetterFile, progress: Progress
    ) -> Iterator[Any]:
        checker = EventChecker(self.decoder, file.is_text, self.assume_utc)
        ids = IdChecker(self.log) if file.has_ids else None
        progress.start("loading", file.rows)
        for batch in file.batches():
            checked: Checked = checker.check(batch)
            table, known, reused = self._known(checked, ids)
            for line in (*checked.rejections, *reused):
                letters.write(line.row, line.reason, line.detail, line.event)
                summary.rejected[line.reason] += 1
            summary.rows += batch.num_rows
            summary.repeated += known
            yield table
            progress.advance(batch.num_rows)
        for torn in file.torn:
            letters.write(0, "torn_line", torn.detail, torn.text)
        summary.rejected["torn_line"] += len(file.torn)
        summary.rejected = +summary.rejected
        summary.rows += len(file.torn)
        # Before the commit: once the file counts as loaded, nothing would write them again.
        summary.dead_letters = letters.finish()
        if summary.rejected.total() == summary.rows:
            raise _nothing_valid(summary, letters.path)

    def _known(self, checked: Checked, ids: IdChecker | None) -> tuple[pa.Table, int, list[Rejection]]:
        """The events to add, how many are known already, and the rows with the id of another event."""
        if ids is None:
            known = self.log.holds(checked.table)
            return checked.table.filter(pa.array(~known)), int(known.sum()), []
        result = ids.check(checked.table)
        fresh = checked.table.filter(pa.array(~(result.repeated | result.reused)))
        rejections = [_reused(checked, row) for row in np.flatnonzero(result.reused).tolist()]
        return fresh, int(result.repeated.sum()), rejections


def _reused(checked: Checked, row: int) -> Rejection:
    values = checked.table.slice(row, 1).to_pylist()[0]
    event = {k: v for k, v in values.items() if v is not None and not k.startswith("_")}
    detail = f"event_id {event[names.EVENT_ID]!r} is that of another event. {REUSED_ID_REMEDY}"
    return Rejection(int(checked.rows[row]), REUSED_ID, detail, event)


def _nothing_valid(summary: LoadSummary, letters: Path) -> QAnchorError:
    if not summary.rows:
        return EventsInvalid(f"{summary.path} holds no rows", "Give a file with events.")
    reason, rows = summary.rejected.most_common(1)[0]
    hint = " For times without a zone pass --assume-utc." if reason == "naive_time" else ""
    return EventsInvalid(
        f"{summary.path} holds no valid event: {reason} in {rows:,} of {summary.rows:,} rows",
        f"See {letters} for every row's reason.{hint}",
    )


def _counted(tables: Iterable[Any], summary: LoadSummary, loaded: LoadedFile) -> Iterator[Any]:
    for table in tables:
        summary.accepted += table.num_rows
        for count in pc.value_counts(table[names.MODALITY]).to_pylist():
            summary.modalities[count["values"]] += count["counts"]
        yield table
    loaded.rows, loaded.rejected = summary.rows, summary.rejected.total()


def content_hash(path: Path, workspace: Workspace, assume_utc: bool = False) -> str:
    """A hash of the file's bytes and of the modalities it is checked against, 64 hex digits."""
    digest = hashlib.blake2b(digest_size=32)
    for name, spec in workspace.modalities.items():
        digest.update(f"{name}={spec.model_dump_json()};{assume_utc}".encode())
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
