"""Disks that fill and databases that lock or vanish: one clear line, and the next run completes the log."""

import json
import random
import re
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from qanchor.errors import DatabaseUnavailable, DiskFull
from qanchor.registry import ledger
from qanchor.settings import DatabaseSettings
from qanchor.storage.event_log import log as log_module
from tests.integration.brokers import ThreadedBroker, start_command, wait_for
from tests.integration.places import Place, event_names, make_event, make_events

pytestmark = pytest.mark.integration

_FULL = "Free some and run it again; nothing half-written counts."


def _run_with_tiny_disk(folder: Path, arguments: list[str], env: dict[str, str]) -> tuple[int, str]:
    """Run a command that finds 64 kB of space in a folder; its exit code and stderr."""
    folder.mkdir(parents=True, exist_ok=True)
    unshare = shutil.which("unshare")
    private = [str(unshare), "--user", "--map-root-user", "--mount"]
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    if unshare is None or subprocess.run([*private, *mount], capture_output=True, check=False).returncode:
        pytest.skip("mounting is not allowed here")
    command = [sys.executable, "-c", "from cli.app import main; main()", *arguments]
    ended = subprocess.run(
        [*private, "sh", "-c", f'{" ".join(mount)} && exec "$@"', "sh", *command],
        env=env, capture_output=True, text=True, timeout=60, check=False, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    return ended.returncode, ended.stderr


def test_a_disk_that_is_full_when_events_are_staged(tmp_path: Path, broker: ThreadedBroker) -> None:
    place = Place(tmp_path / "home", broker.address)
    dice = random.Random(1)
    names = sorted(f"{dice.getrandbits(128):032x}" for _ in range(4_000))  # that do not compress
    place.produce([make_event(number, event_id=name) for number, name in enumerate(names)])
    code, err = _run_with_tiny_disk(place.home / "events", ["consume", "--stop-at-end"], place.env)
    assert (code, err.splitlines()) == (4, [f"error: no space left for {place.home / 'events'}. {_FULL}"])
    place.consume()
    assert place.ids() == (names, 4_000)
    assert place.rubbish() == []


def test_a_disk_that_is_full_when_refused_rows_are_kept(tmp_path: Path) -> None:
    place = Place(tmp_path / "home", "127.0.0.1:1")
    place.home.mkdir()
    path = tmp_path / "events.csv"
    good, bad = make_event(0, invoice="i"), make_event(1, invoice="i", modality="unheard " * 20)
    rows = [list(good), *(event.values() for event in [good, *[bad] * 900])]
    path.write_text("\n".join(",".join(map(str, row)) for row in rows))
    folder = place.home / "dead_letters"
    code, err = _run_with_tiny_disk(folder, ["events", "load", str(path)], place.env)
    problem = rf"error: no space left for {re.escape(str(folder))}/events-\w+\.jsonl\. {re.escape(_FULL)}"
    assert (code, bool(re.fullmatch(problem, err.splitlines()[-1]))) == (4, True), err
    assert place.ids() == ([], 0)

    with start_command(["events", "load", str(path), "--json"], place.env) as process:
        out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    summary = json.loads(out)
    assert (summary["accepted"], summary["rejected"]) == (1, 900)
    assert len(Path(summary["dead_letters"]).read_text().splitlines()) == 900


def test_a_database_that_another_process_locks_for_too_long(tmp_path: Path, broker: ThreadedBroker) -> None:
    kafka = {"flush_events": 50, "flush_seconds": 0.05}
    place = Place(tmp_path / "home", broker.address, kafka, DatabaseSettings(busy_seconds=0.5))
    place.produce(make_events(0, 50))
    place.engine.dispose()
    with start_command(["consume"], place.env) as process:
        wait_for(lambda: place.files() > 0)
        holder = sqlite3.connect(place.home / "qanchor.db", isolation_level=None, timeout=10)
        holder.execute("BEGIN EXCLUSIVE")
        place.produce(make_events(50, 200))
        _, err = process.communicate(timeout=30)
        holder.execute("ROLLBACK")
        holder.close()
    assert process.returncode == 4
    assert err.splitlines()[-1].startswith("error: the registry database failed: database is locked.")
    assert "Traceback" not in err
    place.consume()
    assert place.ids() == (event_names(0, 200), 200)
    assert place.rubbish() == []


@pytest.mark.parametrize("after_commit", [False, True])
def test_a_database_that_breaks_off_in_the_middle_of_a_write(
    tmp_path: Path,
    broker: ThreadedBroker,
    postgres: DatabaseSettings,
    monkeypatch: pytest.MonkeyPatch,
    after_commit: bool,
) -> None:
    place = Place(tmp_path / "home", broker.address, {"partitions": 1}, postgres)
    place.produce(make_events(0, 200))
    with monkeypatch.context() as patch:
        if after_commit:
            patch.setattr(ledger, "commit_entry", _commit_then_break_off)
        else:
            patch.setattr(ledger, "_move_offsets", _break_off)
        with pytest.raises(DatabaseUnavailable, match=r"terminating connection|broke off"):
            place.consume()
    assert place.ids() == ([], 0)
    place.consume()
    assert place.ids() == (event_names(0, 200), 200)
    assert place.rubbish() == []


def _break_off(session: Any, offsets: ledger.OffsetRanges) -> None:
    if offsets.ranges:
        session.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))


_COMMIT = ledger.commit_entry


def _commit_then_break_off(engine: Any, entry: ledger.LedgerEntry) -> None:
    _COMMIT(engine, entry)
    if entry.files:
        raise DatabaseUnavailable("the connection broke off before the answer", "Try again.")


def test_a_disk_that_is_full_when_the_files_are_forced_out_leaves_nothing_staged(
    tmp_path: Path, broker: ThreadedBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = Place(tmp_path / "home", broker.address)
    place.produce(make_events(0, 100))
    with monkeypatch.context() as patch:
        patch.setattr(log_module, "sync_all", _no_space)
        with pytest.raises(DiskFull):
            place.consume()
    assert place.rubbish() == []
    place.consume()
    assert place.ids() == (event_names(0, 100), 100)


def _no_space(paths: Any) -> None:
    if any(path.suffix == ".parquet" for path in paths):
        raise OSError(28, "No space left on device")
