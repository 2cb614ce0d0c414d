"""`consume --online` on real parts: broker, ledger, Feast's online store."""

import json
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pytest

from qanchor.events.activity import activity_table
from qanchor.registry.positions import positions
from qanchor.storage.event_log import EventLog
from qanchor.storage.features import FeatureRepository
from qanchor.storage.online import open_online_view
from tests.integration.brokers import ThreadedBroker, run_command, start_command, threaded_broker, wait_for
from tests.integration.places import WORKSPACE, Place, make_event, make_events

pytestmark = pytest.mark.integration

_ROOT = Path(__file__).parents[2]
_COLUMNS = sorted(WORKSPACE.activity_columns)


def _assert_served_as_the_batch_view_says(place: Place, users: int) -> None:
    features = FeatureRepository(WORKSPACE, place.settings.state)
    log = EventLog(place.home / "events", WORKSPACE)
    with log.connect() as connection:
        rows = connection.execute("SELECT DISTINCT user_id FROM events ORDER BY 1").fetchall()
    names = [row[0] for row in rows]
    assert len(names) == users
    moments = open_online_view(features).newest(names)
    assert set(moments) == set(names)
    as_of = pa.array([moments[name] for name in names]).cast(pa.timestamp("us", "UTC"))
    expected = activity_table(log, WORKSPACE, pa.table({"user_id": names, "as_of": as_of}))
    served = features.online(names, [f"user_activity:{column}" for column in _COLUMNS])
    for column in _COLUMNS:
        assert served[column].to_pylist() == pytest.approx(expected[column].to_pylist()), column
    features.close()


def test_rows_equal_the_batch_view_whoever_was_killed_in_between(
    tmp_path: Path, broker: ThreadedBroker
) -> None:
    kafka = {"flush_events": 200, "batch_events": 100, "online_seconds": 0.05}
    place = Place(tmp_path / "home", broker.address, kafka)
    place.produce(make_events(0, 600))
    place.engine.dispose()
    with start_command(["consume", "--online"], place.env) as process:
        wait_for(lambda: place.files() > 0, 60)
        process.send_signal(signal.SIGKILL)
    late = [make_event(900 + i, user_id=f"u{i}", event_time="2025-12-31T10:00:00Z") for i in range(5)]
    place.produce([*late, *make_events(590, 600)])  # and some are sent again
    place.consume(online=True)
    _assert_served_as_the_batch_view_says(place, 97)
    for position in positions(place.engine, "qanchor", "user-events").values():
        assert position.online_offset == position.next_offset


def test_a_plain_consumer_does_not_import_feast(tmp_path: Path, broker: ThreadedBroker) -> None:
    place = Place(tmp_path / "home", broker.address)
    place.produce(make_events(0, 10))
    place.engine.dispose()
    probe = (
        "import sys; from cli.app import run_command; code = run_command(['consume', '--stop-at-end']);"
        "print(code, 'feast' in sys.modules, 'torch' in sys.modules)"
    )

    command = [sys.executable, "-c", probe]
    ended = subprocess.run(command, env=place.env, capture_output=True, text=True, cwd=_ROOT, check=False)
    assert ended.stdout.splitlines()[-1] == "0 False False", ended.stderr


def test_events_are_online_within_seconds_and_the_process_ends_within_two(
    tmp_path: Path, broker: ThreadedBroker
) -> None:
    place = Place(tmp_path / "home", broker.address)
    place.produce(make_events(0, 1))
    place.engine.dispose()
    features = FeatureRepository(WORKSPACE, place.settings.state)
    with start_command(["consume", "--online"], place.env) as process:
        wait_for(lambda: place.files() > 0, 60)
        now = datetime.now(UTC).isoformat()
        began = time.monotonic()
        place.produce([make_event(5, user_id="fresh", event_time=now)])
        view = open_online_view(features)
        wait_for(lambda: bool(view.newest(["fresh"])), 30)
        seconds = time.monotonic() - began
        ended = time.monotonic()
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=20)
        ended = time.monotonic() - ended
        _, err = process.communicate(timeout=20)
    assert process.returncode == 0, err
    assert ended < 2
    assert seconds < 10  # the benchmark holds the two seconds; a loaded test machine does not
    features.close()


def test_status_follows_the_ledger_with_and_without_consumer_and_broker(tmp_path: Path) -> None:
    with threaded_broker(tmp_path / "broker") as broker:
        place = Place(tmp_path / "home", broker.address, {"session_seconds": 1.0})
        place.produce(make_events(0, 40))
        place.consume()
        place.produce(make_events(40, 50))
        groups = broker.broker.state.groups
        wait_for(lambda: not groups["qanchor"].members)  # whoever left stays a member until the session ends
        none = json.loads(run_command(["consume", "status", "--json"], place.env).stdout)
        assert none["members"] == []
        assert sum(row["lag"] for row in none["partitions"]) == 10
        assert sum(row["written"] or 0 for row in none["partitions"]) == 40
        told = run_command(["consume", "status"], place.env)
        assert "10 messages left; consumers in the group: none, start `qanchor-cli consume`" in told.stdout
        with start_command(["consume", "--name", "only"], place.env) as process:
            wait_for(lambda: any(m.assignment for m in groups["qanchor"].members.values()), 30)
            live = json.loads(run_command(["consume", "status", "--json"], place.env).stdout)
            process.kill()
        assert live["members"] == ["only"]
        assert {row["owner"] for row in live["partitions"]} == {"only"}
    down = run_command(["consume", "status"], place.env)
    assert down.returncode == 4
    assert down.stderr.strip().startswith("error: no Kafka broker answers")
    assert len(down.stderr.strip().splitlines()) == 1
    assert "from the ledger alone" in down.stdout
