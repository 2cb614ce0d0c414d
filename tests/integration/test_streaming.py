"""produce -> broker -> consume -> event log, with everything killed that can be killed."""

import json
import random
import signal
import time
from pathlib import Path

import pytest
from kafka import KafkaConsumer, KafkaProducer, TopicPartition

from qanchor.errors import EventsInvalid, NotReady
from tests.integration.brokers import (
    environment,
    run_command,
    start_command,
    threaded_broker,
    wait_for,
)
from tests.integration.clusters import Cluster
from tests.integration.places import Place, event_names, make_event, make_events

pytestmark = pytest.mark.integration


def test_the_commands_bring_a_file_to_the_log_and_its_bad_rows_to_the_dead_letters(
    tmp_path: Path, cluster: Cluster
) -> None:
    place = cluster.place(tmp_path / "home")
    bad = [make_event(900, modality="unheard"), make_event(901, amount="much"), make_event(902, invoice=None)]
    path = tmp_path / "events.jsonl"
    path.write_text("".join(json.dumps(event) + "\n" for event in [*make_events(0, 300), *bad]))
    produced = run_command(["produce", str(path), "--json"], place.env)
    assert json.loads(produced.stdout)["sent"] == 303, produced.stderr
    consumed = run_command(["consume", "--stop-at-end", "--json"], place.env)
    assert consumed.returncode == 0, consumed.stderr
    summary = json.loads(consumed.stdout)
    assert summary["events"] == 300
    assert summary["dead_letters"] == {"unknown_modality": 1, "wrong_type": 1, "missing_field": 1}
    assert sum(summary["lag"].values()) == 0
    assert place.ids() == (event_names(0, 300), 300)
    letters = _dead_letters(cluster)
    assert {letter["dlq.reason"] for letter in letters} == set(summary["dead_letters"])
    assert all(letter["dlq.topic"] == cluster.topic and letter["dlq.offset"].isdigit() for letter in letters)


def _dead_letters(cluster: Cluster) -> list[dict[str, str]]:
    consumer = KafkaConsumer(bootstrap_servers=cluster.address, auto_offset_reset="earliest")
    consumer.assign([TopicPartition(cluster.dead_letter_topic, 0)])
    found: list[dict[str, str]] = []
    for records in consumer.poll(3_000).values():
        found += [{name: value.decode() for name, value in record.headers} for record in records]
    consumer.close()
    return found


def test_a_second_run_goes_on_where_the_first_ended(tmp_path: Path, cluster: Cluster) -> None:
    place = cluster.place(tmp_path / "home")
    for start in (0, 100):
        assert place.produce(make_events(start, start + 100)).sent == 100
        assert place.consume().events == 100
    assert place.ids() == (event_names(0, 200), 200)


@pytest.mark.parametrize(("remembered", "stored"), [(1000, 50), (0, 100)])
def test_events_that_are_sent_again_are_dropped_at_once_or_on_read(
    tmp_path: Path, cluster: Cluster, remembered: int, stored: int
) -> None:
    place = cluster.place(tmp_path / "home", remembered_events=remembered)
    for _ in range(2):
        place.produce(make_events(0, 50))
    assert place.consume().events == stored
    assert place.ids() == (event_names(0, 50), stored)


def test_events_that_are_sent_again_after_a_restart_are_dropped_too(tmp_path: Path, cluster: Cluster) -> None:
    place = cluster.place(tmp_path / "home")
    for events in (make_events(0, 50), make_events(30, 60)):
        place.produce(events)
        place.consume()
    assert place.ids() == (event_names(0, 60), 60)


def test_a_consumer_killed_again_and_again_loses_and_repeats_nothing(
    tmp_path: Path, cluster: Cluster
) -> None:
    kafka = {"flush_events": 400, "flush_seconds": 0.05, "batch_events": 200}
    place, count, dice = cluster.place(tmp_path / "home", **kafka), 20_000, random.Random(7)
    place.produce(make_events(0, count))
    place.engine.dispose()
    for _ in range(4):
        before = place.files()
        with start_command(["consume"], place.env) as process:
            wait_for(lambda seen=before: place.files() > seen)
            time.sleep(dice.uniform(0.0, 0.1))
            process.kill()
            _, err = process.communicate(timeout=10)
        assert process.returncode == -signal.SIGKILL, err
        assert place.ids()[1] < count, "it was killed too late to prove anything"
    place.consume()
    assert place.ids() == (event_names(0, count), count)
    assert list((place.home / "events" / "_staging").glob("*.parquet")) == []


def test_two_consumers_share_a_topic_while_one_is_killed(tmp_path: Path, cluster: Cluster) -> None:
    kafka = {"flush_events": 200, "flush_seconds": 0.1, "batch_events": 100, "session_seconds": 3}
    place, count = cluster.place(tmp_path / "home", **kafka), 4_000
    place.produce(make_events(0, count // 2))
    place.engine.dispose()
    arguments = ["consume", "--until-idle", "6", "--json", "--name"]
    with (
        start_command([*arguments, "one"], place.env) as one,
        start_command([*arguments, "two"], place.env) as two,
    ):
        wait_for(lambda: place.files() > 0)
        place.produce(make_events(count // 2, count))
        one.kill()
        one.communicate(timeout=10)
        _, err = two.communicate(timeout=50)
    assert two.returncode == 0, err
    place.consume(name="three")
    assert place.ids() == (event_names(0, count), count)


def test_sigterm_writes_what_was_read_and_ends_quickly(tmp_path: Path, cluster: Cluster) -> None:
    groups = cluster.inside.broker.state.groups
    place = cluster.place(tmp_path / "home", flush_seconds=600)
    place.produce(make_events(0, 100))
    with start_command(["consume", "--json"], place.env) as process:
        wait_for(lambda: cluster.group in groups and groups[cluster.group].state.value == "Stable")
        time.sleep(1.5)
        began = time.monotonic()
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=20)
    assert process.returncode == 0, err
    assert json.loads(out)["events"] == 100
    assert time.monotonic() - began < 5


def test_transaction_markers_and_aborted_messages_leave_no_trace(tmp_path: Path, cluster: Cluster) -> None:
    producer = KafkaProducer(bootstrap_servers=cluster.address, transactional_id=f"x-{cluster.suffix}")
    producer.init_transactions()
    for number in range(30):
        producer.begin_transaction()
        producer.send(cluster.topic, json.dumps(make_event(number)).encode(), key=b"k")
        producer.flush()
        producer.abort_transaction() if number % 3 == 0 else producer.commit_transaction()
    producer.close()
    kafka = {"flush_events": 5, "flush_seconds": 0.01, "batch_events": 3}
    place = cluster.place(tmp_path / "home", **kafka)
    place.consume()
    assert place.ids()[0] == [name for i, name in enumerate(event_names(0, 30)) if i % 3]


def test_a_flood_of_bad_messages_stops_the_consumer_and_moves_no_offset(
    tmp_path: Path, cluster: Cluster
) -> None:
    place = cluster.place(tmp_path / "home")
    place.produce(make_events(0, 200, modality="unheard"))
    with pytest.raises(EventsInvalid, match="mostly unknown_modality"):
        place.consume()
    tolerant = cluster.place(place.home, dead_letter_share=1.0)
    assert tolerant.consume().rejected == {"unknown_modality": 200}


def test_events_deleted_before_they_were_read_are_an_alarm(tmp_path: Path, cluster: Cluster) -> None:
    topics, place = cluster.inside.broker.state.topics, cluster.place(tmp_path / "home")
    place.produce(make_events(0, 1, user_id="u"))
    place.consume()
    place.produce(make_events(1, 20, user_id="u"))
    for partition in topics[cluster.topic].values():
        partition.delete_before(partition.next)
    place.produce(make_events(20, 21, user_id="u"))
    with pytest.raises(NotReady, match="--skip-deleted"):
        place.consume()
    assert place.consume(skip_deleted=True).events == 1


@pytest.mark.parametrize("command", ["produce", "consume"])
def test_a_stopped_broker_is_one_line_and_exit_code_4(tmp_path: Path, command: str) -> None:
    path = tmp_path / "e.jsonl"
    path.write_text(json.dumps(make_event(0)))
    began = time.monotonic()
    arguments = [command, str(path)] if command == "produce" else [command]
    ended = run_command(arguments, environment(tmp_path / "home", "127.0.0.1:1"))
    assert ended.returncode == 4
    assert ended.stderr.strip().splitlines() == [
        "error: no Kafka broker answers at 127.0.0.1:1. "
        "Start one (`qanchor-cli broker`), or set QANCHOR_KAFKA__BROKERS."
    ]
    assert time.monotonic() - began < 25


def test_a_broker_that_comes_back_is_read_on(tmp_path: Path) -> None:
    folder = tmp_path / "broker"
    with threaded_broker(folder) as first:
        place = Place(tmp_path / "home", first.address, {"flush_seconds": 0.1})
        place.produce(make_events(0, 50))
        process = start_command(["consume"], place.env)
        wait_for(lambda: place.files() > 0)
    with process, threaded_broker(folder, first.broker.port):
        place.produce(make_events(50, 90))
        wait_for(lambda: place.ids()[1] == 90, 40)
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=20)
    assert process.returncode == 0, err
    assert place.ids()[0] == event_names(0, 90)
