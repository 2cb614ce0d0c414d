"""Compaction killed at every step, and racing with writers and readers: nobody ever misses an event."""

import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, Final

import pytest
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from qanchor.events.quality import EventChecker
from qanchor.registry import ledger
from qanchor.registry.session import open_engine
from qanchor.registry.tables import Base
from qanchor.storage.event_log import (
    CompactionRequest,
    CompactionSummary,
    Compactor,
    EventLog,
    append,
    recover,
)
from qanchor.storage.event_log import log as log_module
from tests.integration.forks import FORKS, around, die
from tests.unit.events.files import WORKSPACE, as_table, make_decoder, payment

pytestmark = pytest.mark.integration

# What is in the home after a kill there; each makes the compaction that begins the last.
_KILL_POINTS: Final[Mapping[str, Callable[[], None]]] = {
    "staged, not synced": partial(around, log_module, "sync_all", before=die),
    "staged": partial(around, ledger, "replace_files", before=die),
    "in the transaction": partial(around, Session, "add_all", after=die),
    "committed": partial(around, ledger, "replace_files", after=die),
    "between two renames": partial(
        around, ledger, "replace_files", after=partial(around, Path, "rename", after=die)
    ),
    "renamed": partial(around, EventLog, "publish", after=die),
    "hiding": partial(around, EventLog, "hide", before=partial(around, os, "fsync", after=die)),
    "hidden": partial(around, EventLog, "hide", after=die),
    "one file deleted": partial(
        around, Compactor, "_delete_expired", before=partial(around, Path, "unlink", after=die)
    ),
    "deleted, not forgotten": partial(around, ledger, "forget_files", before=die),
    "forgotten": partial(around, ledger, "forget_files", after=die),
}


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    engine = _engine(tmp_path)
    Base.metadata.create_all(engine)
    yield engine
    engine.dispose()


def _engine(home: Path) -> Engine:
    return open_engine(f"sqlite:///{home / 'q.db'}")


def _log(home: Path) -> EventLog:
    return EventLog(home / "events", WORKSPACE)


def _events(start: int, stop: int) -> Any:
    rows = [payment(f"u{number}", number / 60, event_id=f"e{number:06}") for number in range(start, stop)]
    return EventChecker(make_decoder()).check(as_table(rows)).table


def _compact(home: Path, **request: Any) -> CompactionSummary:
    engine = _engine(home)
    try:
        return Compactor(engine, _log(home), CompactionRequest(grace=timedelta(), **request)).run()
    finally:
        engine.dispose()


def _die_compacting(home: Path, point: str) -> None:
    around(Compactor, "_compact", before=_KILL_POINTS[point])
    _compact(home, file_bytes=1)


def _ids(home: Path) -> list[str]:
    with _log(home).connect(threads=1) as connection:
        return [row[0] for row in connection.execute("SELECT event_id FROM events ORDER BY ALL").fetchall()]


@pytest.mark.parametrize("point", _KILL_POINTS)
def test_killed_at_any_step_readers_see_all_and_the_next_run_completes_it(
    tmp_path: Path, engine: Engine, point: str
) -> None:
    log = _log(tmp_path)
    for start in (0, 250, 500):
        append(engine, log, _events(start, start + 300))  # fifty events of each are repeats
    log.close()
    expected = [f"e{number:06}" for number in range(800)]
    victim = FORKS.Process(target=_die_compacting, args=(tmp_path, point), daemon=True)
    victim.start()
    victim.join(60)
    assert victim.exitcode == -signal.SIGKILL
    assert _ids(tmp_path) == expected

    recover(engine, log)
    assert _ids(tmp_path) == expected
    for torn in log.root.rglob("*.tmp"):
        os.utime(torn, (0, 0))  # a younger one might be somebody's work
    _compact(tmp_path)
    assert _ids(tmp_path) == expected
    assert len(log.files()) == 1
    assert {path.name for path in log.root.rglob("*") if path.is_file()} == {log.files()[0].name}
    assert ledger.replaced_files(engine) == {}


def _compact_forever(home: Path) -> None:
    engine = _engine(home)
    while True:
        Compactor(engine, _log(home), CompactionRequest(grace=timedelta(seconds=3))).run()


def test_readers_miss_and_double_nothing_while_compactions_race_with_a_writer_and_are_killed(
    tmp_path: Path, engine: Engine
) -> None:
    added, stop, dice = [0], threading.Event(), random.Random(5)

    def write() -> None:
        log = _log(tmp_path)
        while not stop.is_set():
            append(engine, log, _events(added[0], added[0] + 10))
            added[0] += 10
        log.close()

    writer = threading.Thread(target=write)
    writer.start()
    kills = 0
    try:
        while kills < 8:
            victim = FORKS.Process(target=_compact_forever, args=(tmp_path,), daemon=True)
            victim.start()
            deadline = time.monotonic() + dice.uniform(0.3, 0.9)
            while time.monotonic() < deadline:
                before = added[0]
                seen = _ids(tmp_path)
                assert seen == [f"e{number:06}" for number in range(len(seen))]
                assert before <= len(seen) <= added[0] + 10
            victim.kill()
            victim.join()
            kills += victim.exitcode == -signal.SIGKILL
    finally:
        stop.set()
        writer.join()
    _compact(tmp_path)
    assert _ids(tmp_path) == [f"e{number:06}" for number in range(added[0])]
    dates = [path.parent.name for path in _log(tmp_path).files()]
    assert dates == sorted(set(dates))
