"""The consumer through faults of the broker and a slow disk: nothing lost or doubled, membership kept."""

import threading
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from kafka import KafkaConsumer, TopicPartition

from consumers.assignment import Assignment
from consumers.embedded_broker.server import Fault
from consumers.sinks.event_log import EventLogSink
from tests.integration.brokers import ThreadedBroker
from tests.integration.places import Place, event_names, make_event, make_events

pytestmark = pytest.mark.integration

_PRODUCE, _FETCH, _LIST_OFFSETS, _METADATA, _COMMIT = 0, 1, 2, 3, 8
_FIND_COORDINATOR, _JOIN, _HEARTBEAT, _SYNC = 10, 11, 12, 14
_NOT_LEADER, _COORDINATOR_LOADING, _REBALANCING = 6, 14, 27
_SLOW = Fault(delay_seconds=0.5)
_HUNG_UP, _LOST = Fault(disconnect=True), Fault(lose_answer=True)


_FAULTS = {
    _FETCH: [Fault(code=_NOT_LEADER), _HUNG_UP, _LOST, _SLOW],
    _LIST_OFFSETS: [Fault(code=_NOT_LEADER), _HUNG_UP, _LOST],
    _METADATA: [_HUNG_UP, _LOST],
    _FIND_COORDINATOR: [_HUNG_UP, _LOST],
    _JOIN: [Fault(code=_COORDINATOR_LOADING), _HUNG_UP, _LOST, _SLOW],
    _SYNC: [Fault(code=_REBALANCING), _HUNG_UP],
    _HEARTBEAT: [Fault(code=_REBALANCING), _HUNG_UP, _LOST, _SLOW],
    _COMMIT: [Fault(code=_COORDINATOR_LOADING), _HUNG_UP, _LOST, _SLOW],
}


def test_faults_of_the_broker_cost_retries_and_no_event(tmp_path: Path, broker: ThreadedBroker) -> None:
    settings = {"flush_seconds": 0.05, "batch_events": 100, "session_seconds": 2.0}
    place = Place(tmp_path / "home", broker.address, settings)
    place.produce(make_events(0, 500))
    for api, faults in _FAULTS.items():
        broker.inject(api, *faults)
    place.consume()
    place.produce(make_events(500, 900))
    place.consume(name="another")
    assert place.ids() == (event_names(0, 900), 900)
    used = {api for api in _FAULTS if len(broker.broker.faults[api]) < len(_FAULTS[api])}
    assert {_FETCH, _LIST_OFFSETS, _METADATA, _FIND_COORDINATOR, _JOIN, _SYNC, _COMMIT} <= used


def test_lag_tools_see_where_a_consumer_ended_though_a_commit_failed(
    tmp_path: Path, broker: ThreadedBroker
) -> None:
    place = Place(tmp_path / "home", broker.address)
    place.produce(make_events(0, 300))
    broker.inject(_COMMIT, _HUNG_UP)
    place.consume()
    kafka = place.settings.kafka
    partitions = [TopicPartition(kafka.topic, number) for number in range(kafka.partitions)]
    with closing(KafkaConsumer(bootstrap_servers=broker.address, group_id=kafka.group)) as asked:
        ends = {p: end for p, end in asked.end_offsets(partitions).items() if end}
        assert sum(ends.values()) == 300
        assert {p: asked.committed(p) for p in ends} == ends


def test_dead_letters_survive_a_broker_that_loses_their_acknowledgement(
    tmp_path: Path, broker: ThreadedBroker
) -> None:
    place = Place(tmp_path / "home", broker.address)
    place.produce([*make_events(0, 20), make_event(20, modality="unheard")])
    broker.inject(_PRODUCE, _LOST, _HUNG_UP, Fault(code=_NOT_LEADER))
    assert place.consume().rejected == {"unknown_modality": 1}
    assert place.ids() == (event_names(0, 20), 20)


def test_a_slow_disk_pauses_the_reading_and_keeps_the_membership(
    tmp_path: Path, broker: ThreadedBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Every write takes longer than the session lasts: a consumer that did not poll meanwhile would be out.
    settings = {"flush_events": 300, "batch_events": 100, "session_seconds": 1.0, "flush_seconds": 0.1}
    place = Place(tmp_path / "home", broker.address, settings)
    place.produce(make_events(0, 1_500))
    seen: list[int] = []
    rebalances: list[int] = []
    paused = threading.Event()
    write, take, pause = EventLogSink.write, Assignment.take, KafkaConsumer.pause

    def slow_write(self: Any, records: Any, ranges: Any) -> Any:
        if len(records):
            time.sleep(1.5)
        return write(self, records, ranges)

    def noted_take(self: Any, polled: Any) -> int:
        buffered = take(self, polled)
        seen.append(buffered)
        rebalances.append(self.rebalances)
        return buffered

    def noted_pause(self: Any, *places: Any) -> Any:
        paused.set()
        return pause(self, *places)

    monkeypatch.setattr(EventLogSink, "write", slow_write)
    monkeypatch.setattr(Assignment, "take", noted_take)
    monkeypatch.setattr(KafkaConsumer, "pause", noted_pause)
    summary = place.consume()
    assert paused.is_set()
    assert max(seen) <= 300 + 100  # what is full, and the poll that filled it
    assert (rebalances[-1], summary.fenced) == (1, 0)
    assert place.ids() == (event_names(0, 1_500), 1_500)
