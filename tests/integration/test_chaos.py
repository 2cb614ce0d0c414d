"""Members and brokers killed at random, zombies, lost answers: nothing is missing, nothing is doubled.

30 kills here; QANCHOR_TEST_KILLS=300, which `make nightly` sets, for the long proof.
"""

import json
import os
import random
import signal
import threading
import time
from collections.abc import Iterable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Protocol

import psutil
import pytest
from kafka import KafkaConsumer, KafkaProducer, TopicPartition

from consumers.embedded_broker.server import Fault
from consumers.stop_rule import StopRule
from qanchor.registry.ledger import next_offsets
from tests.integration.apache_kafka import apache_kafka
from tests.integration.brokers import ThreadedBroker, wait_for
from tests.integration.clusters import Cluster, require_apache
from tests.integration.places import Place, event_names, make_event, make_events
from tests.integration.victims import (
    KILL_POINTS,
    dies_at,
    mortal_broker,
    start_consumer,
    stops_before_commit,
)

pytestmark = pytest.mark.integration

_KILLS = int(os.environ.get("QANCHOR_TEST_KILLS", "30"))
_PRODUCE = 0  # API key
_FAR_AHEAD = 10_000


class _Pump:
    """Sends numbered events, every fiftieth a bad one, until it is stopped; never far ahead of the ledger."""

    def __init__(self, address: str, place: Place) -> None:
        self._topic, self._place = place.settings.kafka.topic, place
        self._producer = KafkaProducer(
            bootstrap_servers=address, linger_ms=5, delivery_timeout_ms=600_000, request_timeout_ms=5_000
        )
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.sent = 0
        self._thread.start()

    def _run(self) -> None:
        engine, group = self._place.engine, self._place.settings.kafka.group
        while not self._stop.wait(0.02):
            # A slow machine takes minutes for the kills; the backlog must not grow by as much.
            if self.sent - sum(next_offsets(engine, group, self._topic).values()) > _FAR_AHEAD:
                continue
            for _ in range(20):
                changes = {"modality": "unheard"} if self.sent % 50 == 49 else {}
                event = json.dumps(make_event(self.sent, **changes)).encode()
                self._producer.send(self._topic, event, partition=self.sent % 4)
                self.sent += 1
        engine.dispose()

    def stop(self) -> tuple[list[str], int]:
        """Names of the good events that were sent, and how many were bad."""
        self._stop.set()
        self._thread.join()
        self._producer.flush(60)
        self._producer.close()
        names = event_names(0, self.sent)
        return [name for number, name in enumerate(names) if number % 50 != 49], self.sent // 50


def _dead_letters(place: Place) -> set[tuple[bytes, bytes]]:
    """Partition and offset of every message in the dead-letter topic."""
    client = KafkaConsumer(bootstrap_servers=place.address, auto_offset_reset="earliest")
    client.assign([TopicPartition(place.settings.kafka.dead_letter_topic, 0)])
    found = set()
    while polled := client.poll(2_000):
        for record in polled[TopicPartition(place.settings.kafka.dead_letter_topic, 0)]:
            headers = dict(record.headers)
            found.add((headers["dlq.partition"], headers["dlq.offset"]))
    client.close()
    return found


def _await_progress(place: Place, members: Iterable[BaseProcess], seconds: float) -> None:
    """Return once a write has ended, so that most kills fall into the work and not into the start.

    Or once a member has killed itself at its point.
    """
    before, deadline = place.files(), time.monotonic() + seconds
    while place.files() == before and time.monotonic() < deadline:
        if any(member.exitcode is not None for member in members):
            return
        time.sleep(0.02)


class _Mortal(Protocol):
    """A broker that is killed and comes back at its port."""

    def kill(self) -> None: ...

    def start(self) -> None: ...


def _kill_members(place: Place, broker: _Mortal, kills: int) -> None:
    """Kill one or other of two members, at any moment or at a point of a write; at times the broker."""
    dice, done = random.Random(3), 0
    members: dict[str, BaseProcess] = {}
    # On a slow machine a member may die before its first write: such a kill does not count for enough.
    while done < kills or place.files() < kills:
        for name in ("one", "two"):
            if name not in members or members[name].exitcode is not None:
                if name in members:
                    assert members[name].exitcode in (-signal.SIGKILL, 4), "neither killed nor without broker"
                    done += members[name].exitcode == -signal.SIGKILL
                point = dice.choice(list(KILL_POINTS)) if dice.random() < 0.5 else None
                prepare = dies_at(point, dice.randint(1, 4)) if point else None
                members[name] = start_consumer(place, name, StopRule(), prepare)
        _await_progress(place, members.values(), 60.0 if dice.random() < 0.7 else dice.uniform(0.0, 0.5))
        time.sleep(dice.uniform(0.0, 0.05))
        members[dice.choice(["one", "two"])].kill()
        if dice.random() < 0.12:
            broker.kill()
            time.sleep(dice.uniform(0, 0.3))
            broker.start()
    for member in members.values():
        member.kill()
        member.join()


@pytest.mark.timeout(60 + 10 * _KILLS)
def test_members_killed_at_random_while_brokers_die_too_lose_and_repeat_nothing(tmp_path: Path) -> None:
    with mortal_broker(tmp_path / "broker") as broker:
        _kill_and_count(tmp_path, broker, broker.address, _KILLS)


@pytest.mark.timeout(120 + 15 * _KILLS)
def test_the_same_on_apache_kafka(tmp_path: Path) -> None:
    require_apache()
    with apache_kafka(tmp_path / "kafka") as kafka:
        _kill_and_count(tmp_path, kafka, kafka.address, _KILLS if _KILLS > 30 else 12)


def _kill_and_count(tmp_path: Path, broker: _Mortal, address: str, kills: int) -> None:
    kafka = {"flush_events": 400, "flush_seconds": 0.05, "batch_events": 200, "session_seconds": 2}
    place = Place(tmp_path / "home", address, kafka)
    place.engine.dispose()
    place.consume()  # makes the topics
    pump = _Pump(address, place)
    _kill_members(place, broker, kills)
    files = place.files()
    good, bad = pump.stop()
    place.consume(name="one")
    assert place.ids() == (good, len(good))
    assert files >= kills, "the members died before they could do harm"
    assert len(_dead_letters(place)) == bad
    assert place.rubbish() == []


def test_a_zombie_that_wakes_up_after_its_partition_was_taken_over_writes_nothing(
    tmp_path: Path, cluster: Cluster
) -> None:
    kafka = {"partitions": 1, "batch_events": 100, "flush_events": 100, "session_seconds": 1}
    place = cluster.place(tmp_path / "home", **kafka)
    place.produce(make_events(0, 400))
    place.engine.dispose()
    zombie = start_consumer(place, "zombie", StopRule(idle_seconds=3), stops_before_commit(write=2))
    process = psutil.Process(zombie.pid)
    wait_for(lambda: process.status() == psutil.STATUS_STOPPED)
    assert place.consume(name="heir").events == 300
    process.resume()
    zombie.join(30)
    assert json.loads((place.home / "zombie.json").read_text()) == {"events": 100, "fenced": 1}
    assert place.ids() == (event_names(0, 400), 400)
    assert place.rubbish() == []


@pytest.mark.parametrize("idempotent", [True, False])
def test_messages_sent_again_because_an_answer_was_lost_are_in_the_log_once(
    tmp_path: Path, broker: ThreadedBroker, idempotent: bool
) -> None:
    place = Place(tmp_path / "home", broker.address, {"partitions": 1})
    place.engine.dispose()
    place.consume()
    producer = KafkaProducer(
        bootstrap_servers=broker.address, enable_idempotence=idempotent, acks="all", retry_backoff_ms=50,
        max_in_flight_requests_per_connection=1, batch_size=4_096,
    )  # fmt: skip
    broker.inject(_PRODUCE, *(Fault(lose_answer=number % 2 == 1) for number in range(6)))
    for event in make_events(0, 200):
        producer.send(place.settings.kafka.topic, json.dumps(event).encode())
    producer.flush(30)
    producer.close()
    partition = broker.broker.state.topics[place.settings.kafka.topic][0]
    assert (partition.next == 200) is idempotent
    place.consume()
    assert place.ids() == (event_names(0, 200), 200)
