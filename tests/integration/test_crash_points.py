"""kill -9 at every step of the write path: after the next run nothing is missing, doubled or left over."""

import signal
from dataclasses import replace
from pathlib import Path

import pytest

from qanchor.registry.ledger import next_offsets
from qanchor.settings import DatabaseSettings
from tests.integration.clusters import Cluster
from tests.integration.places import Place, event_names, make_event, make_events
from tests.integration.victims import KILL_POINTS, dies_at, start_consumer

pytestmark = pytest.mark.integration

_WRITE = 50  # messages; the second write is the deadly one, and its events are of three dates
_KAFKA = {"partitions": 1, "batch_events": _WRITE, "flush_events": _WRITE, "flush_seconds": 60}
# What a point leaves: staged files, files in place beside the first write's, whether the offsets moved.
_LEFT = {
    "dead letters sent": (0, 0, False),
    "before staging": (0, 0, False),
    "staged, not synced": (3, 0, False),
    "in the transaction": (3, 0, False),
    "committed": (3, 0, True),
    "between two renames": (2, 1, True),
    "renamed": (0, 3, True),
}


def _kill_at(point: str, place: Place) -> None:
    one_day = 24 * 60  # events are a minute apart
    events = [make_event(number * one_day // 20) for number in range(4 * _WRITE)]
    for event in events[9::10]:
        event["modality"] = "unheard"
    place.produce(events)
    place.engine.dispose()
    victim = start_consumer(place, "one", prepare=dies_at(point))
    victim.join(30)
    assert victim.exitcode == -signal.SIGKILL

    staged, in_place, moved = _LEFT[point]
    left = [name for name in place.rubbish() if name.endswith(".parquet")]
    engine = place.engine
    read = next_offsets(engine, place.settings.kafka.group, place.settings.kafka.topic)
    engine.dispose()
    assert read == {0: 2 * _WRITE if moved else _WRITE}
    assert (len(left), place.files() - 3) == (staged, in_place)

    place.consume(name="one")
    expected = sorted(event["event_id"] for event in events if event["modality"] != "unheard")
    assert place.ids() == (expected, len(expected))
    assert place.rubbish() == []


@pytest.mark.parametrize("point", KILL_POINTS)
def test_killed_at_a_point_of_the_write_path_the_next_run_completes_the_log(
    tmp_path: Path, cluster: Cluster, point: str
) -> None:
    _kill_at(point, cluster.place(tmp_path / "home", **_KAFKA))


@pytest.mark.parametrize("point", ["in the transaction", "committed"])
def test_the_same_on_postgresql(
    tmp_path: Path, cluster: Cluster, postgres: DatabaseSettings, point: str
) -> None:
    _kill_at(point, replace(cluster.place(tmp_path / "home", **_KAFKA), database=postgres))


def test_another_consumer_finishes_the_renames_of_one_that_was_killed(
    tmp_path: Path, cluster: Cluster
) -> None:
    place = cluster.place(tmp_path / "home", **_KAFKA, session_seconds=1)
    place.produce(make_events(0, 3 * _WRITE))
    place.engine.dispose()
    victim = start_consumer(place, "one", prepare=dies_at("committed"))
    victim.join(30)
    place.consume(name="two")
    assert place.ids() == (event_names(0, 3 * _WRITE), 3 * _WRITE)
    assert place.rubbish() == []
