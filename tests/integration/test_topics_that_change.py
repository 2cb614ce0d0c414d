"""Topics that are created again, grow, or lose their messages; brokers that go away; lag by all of it."""

import json
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from kafka import KafkaProducer, TopicPartition
from kafka.admin import KafkaAdminClient, NewPartitions, NewTopic

from qanchor.errors import BrokerRefusal, NotReady, TopicRecreated
from tests.integration.apache_kafka import apache_kafka
from tests.integration.brokers import run_command, start_command, threaded_broker, wait_for
from tests.integration.clusters import Cluster, require_apache
from tests.integration.places import Place, event_names, make_event, make_events

pytestmark = pytest.mark.integration


def _admin(cluster: Cluster, work: Callable[[KafkaAdminClient], Any]) -> Any:
    admin = KafkaAdminClient(bootstrap_servers=cluster.address)
    try:
        return work(admin)
    finally:
        admin.close()


def _recreate(cluster: Cluster, partitions: int = 4) -> None:
    _admin(cluster, lambda admin: admin.delete_topics([cluster.topic]))
    deadline = time.monotonic() + 10
    while True:
        try:
            _admin(cluster, lambda admin: admin.create_topics([NewTopic(cluster.topic, partitions, 1)]))
            return
        except Exception:  # the deletion is still under way
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def test_a_topic_created_again_is_an_error_that_says_what_to_run(tmp_path: Path, cluster: Cluster) -> None:
    place = cluster.place(tmp_path / "home", partitions=1)
    place.produce(make_events(0, 200))
    assert place.consume().events == 200
    _recreate(cluster, 1)
    place.produce(make_events(200, 600))
    with pytest.raises(TopicRecreated, match="consume --recreated"):
        place.consume()
    assert place.ids()[1] == 200
    assert place.consume(recreated=True).events == 400
    assert place.ids() == (event_names(0, 600), 600)
    assert place.consume().events == 0


def test_a_running_consumer_notices_and_creates_no_topic(tmp_path: Path, cluster: Cluster) -> None:
    kafka = {"partitions": 1, "flush_seconds": 0.2, "metadata_seconds": 1}
    place = cluster.place(tmp_path / "home", **kafka)
    place.produce(make_events(0, 100))
    place.engine.dispose()
    with start_command(["consume"], place.env) as process:
        wait_for(lambda: place.ids()[1] == 100, 40)
        _admin(cluster, lambda admin: admin.delete_topics([cluster.topic]))
        time.sleep(4)
        assert cluster.topic not in _admin(cluster, lambda admin: admin.list_topics())
        _admin(cluster, lambda admin: admin.create_topics([NewTopic(cluster.topic, 1, 1)]))
        place.produce(make_events(100, 400))
        _, err = process.communicate(timeout=40)
    assert process.returncode == 3, err
    assert "--recreated" in err.splitlines()[-1]
    assert place.consume(recreated=True).events == 300
    assert place.ids() == (event_names(0, 400), 400)


def test_a_deleted_topic_is_named_and_stays_deleted(tmp_path: Path, cluster: Cluster) -> None:
    place = cluster.place(tmp_path / "home")
    place.produce(make_events(0, 20))
    place.consume()
    _admin(cluster, lambda admin: admin.delete_topics([cluster.topic]))
    time.sleep(1)
    with pytest.raises(BrokerRefusal, match=f"the topic '{cluster.topic}' does not exist"):
        place.consume()
    assert cluster.topic not in _admin(cluster, lambda admin: admin.list_topics())


def _status(place: Place) -> list[dict[str, Any]]:
    answer = run_command(["consume", "status", "--json"], place.env)
    assert answer.returncode == 0, answer.stderr
    rows: list[dict[str, Any]] = json.loads(answer.stdout)["partitions"]
    return rows


def test_unread_messages_deleted_to_the_end_are_skipped_counted_and_no_lag(
    tmp_path: Path, cluster: Cluster
) -> None:
    place = cluster.place(tmp_path / "home", partitions=1)
    place.produce(make_events(0, 50))
    place.consume()
    place.produce(make_events(50, 150))
    _admin(cluster, lambda admin: admin.delete_records({TopicPartition(cluster.topic, 0): 150}))
    with pytest.raises(NotReady, match="--skip-deleted"):
        place.consume()
    summary = place.consume(skip_deleted=True)
    assert (summary.events, summary.skipped, sum(summary.lag.values())) == (0, 100, 0)
    (row,) = _status(place)
    assert (row["lag"], row["written"], row["skipped"]) == (0, 150, 100)
    place.produce(make_events(150, 160))
    assert place.consume().events == 10


def test_partitions_that_are_added_are_read_within_the_setting(tmp_path: Path, cluster: Cluster) -> None:
    place = cluster.place(tmp_path / "home", partitions=1, flush_seconds=0.2, metadata_seconds=3)
    place.produce(make_events(0, 10))
    place.engine.dispose()
    with start_command(["consume"], place.env) as process:
        wait_for(lambda: place.ids()[1] == 10, 40)
        _admin(cluster, lambda admin: admin.create_partitions({cluster.topic: NewPartitions(4)}))
        time.sleep(0.5)
        place.produce(make_events(10, 100))
        wait_for(lambda: place.ids()[1] == 100, 20)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=20)


def test_control_records_are_no_lag(tmp_path: Path, cluster: Cluster) -> None:
    place = cluster.place(tmp_path / "home")
    place.produce(make_events(0, 1))
    producer = KafkaProducer(bootstrap_servers=cluster.address, transactional_id=f"t-{cluster.suffix}")
    producer.init_transactions()
    for number in range(1, 9):
        producer.begin_transaction()
        producer.send(cluster.topic, json.dumps(make_event(number)).encode(), partition=number % 4)
        producer.flush()
        producer.commit_transaction() if number % 2 else producer.abort_transaction()
    producer.close()
    assert sum(place.consume().lag.values()) == 0
    assert [row["lag"] for row in _status(place)] == [0, 0, 0, 0]


def test_a_transaction_left_open_ends_at_its_time_out_and_leaves_no_lag(
    tmp_path: Path, cluster: Cluster
) -> None:
    place = cluster.place(tmp_path / "home", partitions=1)
    place.produce(make_events(0, 5))
    place.consume()
    dead = KafkaProducer(
        bootstrap_servers=cluster.address,
        transactional_id=f"d-{cluster.suffix}",
        transaction_timeout_ms=1_000,
    )
    dead.init_transactions()
    dead.begin_transaction()
    dead.send(cluster.topic, json.dumps(make_event(900)).encode(), partition=0)
    dead.flush()
    place.produce(make_events(5, 10))
    deadline = time.monotonic() + 20
    while place.ids()[1] < 10 and time.monotonic() < deadline:
        place.consume()
        time.sleep(0.5)
    assert place.ids() == (event_names(0, 10), 10)
    place.consume()
    assert _status(place)[0]["lag"] == 0
    dead.close(timeout=0)


def test_after_an_outage_all_is_read_within_seconds(tmp_path: Path) -> None:
    folder = tmp_path / "broker"
    with threaded_broker(folder) as first:
        place = Place(tmp_path / "home", first.address, {"flush_seconds": 0.1})
        place.produce(make_events(0, 50))
        place.engine.dispose()
        process = start_command(["consume"], place.env)
        wait_for(lambda: place.ids()[1] == 50, 40)
    with process:
        time.sleep(10)
        with threaded_broker(folder, first.broker.port):
            began = time.monotonic()
            place.produce(make_events(50, 90))
            wait_for(lambda: place.ids()[1] == 90, 40)
            seconds = time.monotonic() - began
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=20)
    assert seconds < 6  # 3 on a machine of one's own; kafka-python's defaults take 22 and more


def test_a_paused_member_that_goes_on_leaves_no_partition_unread(tmp_path: Path) -> None:
    require_apache()
    settings = {"group.initial.rebalance.delay.ms": "3000"}
    with apache_kafka(tmp_path / "kafka", settings=settings) as kafka:
        place = Place(tmp_path / "home", kafka.address, {"session_seconds": 6, "flush_seconds": 0.2})
        place.produce(make_events(0, 400))
        place.engine.dispose()
        with start_command(["consume", "--name", "two"], place.env) as two:
            wait_for(lambda: place.ids()[1] == 400, 60)
            two.send_signal(signal.SIGSTOP)
            time.sleep(12)
            with start_command(["consume", "--name", "one"], place.env) as one:
                time.sleep(2)
                two.send_signal(signal.SIGCONT)
                time.sleep(10)
                place.produce(make_events(400, 800))
                wait_for(lambda: place.ids()[1] == 800, 30)
                one.kill()
                two.kill()
    assert place.ids() == (event_names(0, 800), 800)


def test_two_consumers_of_one_name_do_not_fight(cluster: Cluster, tmp_path: Path) -> None:
    places = [cluster.place(tmp_path / name, session_seconds=6, flush_seconds=0.2) for name in ("a", "b")]
    places[0].produce(make_events(0, 10))
    for place in places:
        place.engine.dispose()
    with start_command(["consume", "--name", "same"], places[0].env) as first:
        wait_for(lambda: places[0].ids()[1] == 10, 40)
        with start_command(["consume", "--name", "same"], places[1].env) as second:
            _, err = first.communicate(timeout=60)
            assert first.returncode == 4, err
            assert "another consumer of this name" in err.splitlines()[-1]
            wait_for(lambda: places[1].ids()[1] == 10, 40)
            second.kill()
