"""SIGTERM: two seconds from the signal to the end of the process, and nothing lost."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

from tests.integration.brokers import ThreadedBroker, start_command, threaded_broker, wait_for
from tests.integration.places import Place, event_names, make_events

pytestmark = pytest.mark.integration

_PROMISED_SECONDS = 2.0


def _wait_until_read(broker: ThreadedBroker, seconds: float = 1.5) -> None:
    groups = broker.broker.state.groups
    wait_for(lambda: "qanchor" in groups and groups["qanchor"].state.value == "Stable")
    time.sleep(seconds)


def _end(process: "subprocess.Popen[str]") -> tuple[float, str, str]:
    """Seconds from the signal to the end of the process, and what it said."""
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    process.wait(timeout=20)
    seconds = time.monotonic() - began
    out, err = process.communicate(timeout=20)
    return seconds, out, err


def test_what_was_read_is_written_and_the_process_ends_in_time(
    tmp_path: Path, broker: ThreadedBroker
) -> None:
    place = Place(tmp_path / "home", broker.address, {"flush_seconds": 600})
    place.produce(make_events(0, 100))
    with start_command(["consume", "--json"], place.env) as process:
        _wait_until_read(broker)
        seconds, out, err = _end(process)
    assert process.returncode == 0, err
    assert json.loads(out)["events"] == 100
    assert place.ids() == (event_names(0, 100), 100)
    assert seconds < _PROMISED_SECONDS


def test_a_stopped_broker_does_not_hold_the_end_up(tmp_path: Path) -> None:
    with threaded_broker(tmp_path / "broker") as broker:
        place = Place(tmp_path / "home", broker.address, {"flush_seconds": 600})
        place.produce(make_events(0, 100))
        process = start_command(["consume", "--json"], place.env)
        _wait_until_read(broker)
    with process:
        time.sleep(3)  # long enough for its polls to fail and to wait between
        seconds, _, err = _end(process)
    assert process.returncode == 0, err
    assert place.ids() == (event_names(0, 100), 100)
    assert seconds < _PROMISED_SECONDS


def test_a_write_that_hangs_is_left_and_the_next_run_makes_up_for_it(
    tmp_path: Path, broker: ThreadedBroker
) -> None:
    place = Place(tmp_path / "home", broker.address, {"flush_seconds": 0.5})
    place.produce(make_events(0, 100))
    place.engine.dispose()
    with (
        start_command(["consume"], place.env) as process,
        closing(sqlite3.connect(place.home / "qanchor.db", isolation_level=None)) as database,
    ):
        wait_for(lambda: place.files() > 0)
        database.execute("BEGIN IMMEDIATE")  # the next commit waits for its turn, up to half a minute
        place.produce(make_events(100, 200))
        wait_for(lambda: any((place.home / "events" / "_staging").glob("*.parquet")))
        seconds, _, err = _end(process)
        database.execute("ROLLBACK")
    assert process.returncode == 4
    assert err.splitlines()[-1].startswith("error: a store or broker did not answer in time")
    assert seconds < _PROMISED_SECONDS
    assert place.consume().events == 100
    assert place.ids() == (event_names(0, 200), 200)


def test_a_backlog_is_left_on_the_topic(tmp_path: Path, broker: ThreadedBroker) -> None:
    place = Place(tmp_path / "home", broker.address, {"flush_events": 500, "batch_events": 500})
    place.produce(make_events(0, 20_000))
    with start_command(["consume"], place.env) as process:
        wait_for(lambda: place.files() > 0)
        seconds, _, err = _end(process)
    assert process.returncode == 0, err
    assert seconds < _PROMISED_SECONDS
    assert 0 < place.ids()[1] < 20_000
    place.consume()
    assert place.ids() == (event_names(0, 20_000), 20_000)


def test_the_container_entry_ends_as_quickly(tmp_path: Path, broker: ThreadedBroker) -> None:
    place = Place(tmp_path / "home", broker.address, {"flush_seconds": 600})
    place.produce(make_events(0, 100))
    place.engine.dispose()
    command = [sys.executable, "-m", "consumers"]
    root = Path(__file__).parents[2]
    pipe = subprocess.PIPE
    with subprocess.Popen(
        command, env={**os.environ, **place.env}, cwd=root, stdout=pipe, stderr=pipe, text=True
    ) as process:
        _wait_until_read(broker)
        seconds, _, err = _end(process)
    assert process.returncode == 0, err
    assert seconds < _PROMISED_SECONDS
    assert place.ids() == (event_names(0, 100), 100)
