"""The embedded broker against kafka-python with default settings."""

import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from kafka.admin import KafkaAdminClient, NewTopic
from kafka.coordinator.assignors.cooperative_sticky import CooperativeStickyAssignor
from kafka.errors import TopicAlreadyExistsError

from consumers.embedded_broker.server import Fault
from qanchor.errors import BrokerUnavailable
from tests.integration.brokers import (
    ThreadedBroker,
    environment,
    read_values,
    start_command,
    threaded_broker,
    wait_for,
)

pytestmark = pytest.mark.integration

_PRODUCE, _FETCH = 0, 1


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[ThreadedBroker]:
    with threaded_broker(tmp_path / "log") as running:
        yield running


def _group(broker: ThreadedBroker, **options: Any) -> dict[str, Any]:
    return {"bootstrap_servers": broker.address, "group_id": "g", **options}


def _send(address: str, topic: str, values: list[bytes], **options: Any) -> None:
    producer = KafkaProducer(bootstrap_servers=address, **options)
    sent = [producer.send(topic, value, partition=0) for value in values]
    producer.flush(20)
    for future in sent:
        future.get(20)
    producer.close()


@pytest.mark.parametrize("compression", [None, "gzip", "zstd", "lz4", "snappy"])
def test_records_come_back_in_order(broker: ThreadedBroker, compression: str | None) -> None:
    values = [b"%d" % i for i in range(500)]
    _send(broker.address, "t", values, compression_type=compression)
    assert read_values(broker.address, "t", 500) == values


def test_a_restart_keeps_records_and_offsets(tmp_path: Path) -> None:
    place = TopicPartition("t", 0)
    with threaded_broker(tmp_path) as first:
        _send(first.address, "t", [b"a", b"b", b"c"])
        consumer = KafkaConsumer("t", auto_offset_reset="earliest", **_group(first))
        wait_for(lambda: consumer.poll(200))
        consumer.commit()
        consumer.close()
    with (tmp_path / "t-0.log").open("ab") as file:
        file.write(b"torn tail of a killed process")
    with threaded_broker(tmp_path) as second:
        assert read_values(second.address, "t", 3) == [b"a", b"b", b"c"]
        consumer = KafkaConsumer(**_group(second))
        assert consumer.committed(place) == 3
        consumer.close()
        _send(second.address, "t", [b"d"])
        assert read_values(second.address, "t", 4)[-1] == b"d"


def test_an_idempotent_producer_survives_lost_answers_without_a_repeat(broker: ThreadedBroker) -> None:
    _send(broker.address, "t", [b"first"])
    lost = Fault(lose_answer=True)
    broker.inject(_PRODUCE, lost, Fault(code=7), Fault(disconnect=True), lost)
    values = [b"%d" % i for i in range(30)]
    _send(broker.address, "t", values, retries=20, linger_ms=0)
    assert read_values(broker.address, "t", 31) == [b"first", *values]


def test_readers_of_committed_data_skip_what_was_aborted(broker: ThreadedBroker) -> None:
    producer = KafkaProducer(bootstrap_servers=broker.address, transactional_id="x")
    producer.init_transactions()
    for value, keep in ((b"kept", True), (b"dropped", False), (b"kept too", True)):
        producer.begin_transaction()
        producer.send("t", value, partition=0)
        producer.flush()
        producer.commit_transaction() if keep else producer.abort_transaction()
    producer.close()
    assert read_values(broker.address, "t", 2, isolation_level="read_committed") == [b"kept", b"kept too"]
    assert len(read_values(broker.address, "t", 3)) == 3


@pytest.mark.parametrize("cooperative", [False, True])
def test_two_members_share_and_one_takes_over(broker: ThreadedBroker, cooperative: bool) -> None:
    options = _group(broker, heartbeat_interval_ms=200)
    if cooperative:
        options["partition_assignment_strategy"] = [CooperativeStickyAssignor]
    first, second = (KafkaConsumer("t", **options) for _ in range(2))

    def shares() -> list[int]:
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(lambda consumer: consumer.poll(300), (first, second)))
        return [len(consumer.assignment()) for consumer in (first, second)]

    wait_for(lambda: shares() == [2, 2])
    second.close()
    wait_for(lambda: (first.poll(50), len(first.assignment()))[1] == 4)
    first.close()


def test_a_static_member_that_is_back_in_time_causes_no_rebalance(broker: ThreadedBroker) -> None:
    options = _group(broker, group_instance_id="a")
    first = KafkaConsumer("t", **options)
    wait_for(lambda: (first.poll(50), len(first.assignment()))[1] == 4)
    generation = broker.broker.state.groups["g"].generation
    first.close()
    second = KafkaConsumer("t", **options)
    wait_for(lambda: (second.poll(50), len(second.assignment()))[1] == 4)
    assert broker.broker.state.groups["g"].generation == generation
    second.close()


def test_topics_are_created_once(broker: ThreadedBroker) -> None:
    admin = KafkaAdminClient(bootstrap_servers=broker.address)
    admin.create_topics([NewTopic("made", num_partitions=7, replication_factor=1)])
    with pytest.raises(TopicAlreadyExistsError):
        admin.create_topics([NewTopic("made", num_partitions=7, replication_factor=1)])
    assert len(broker.broker.state.topics["made"]) == 7
    admin.close()


def test_a_topic_name_cannot_leave_the_folder(broker: ThreadedBroker) -> None:
    for name in ("../evil", "a/b", "", ".."):
        assert broker.broker.state.create_topic(name, 1) != 0


def test_a_taken_port_is_one_clear_error(broker: ThreadedBroker, tmp_path: Path) -> None:
    with pytest.raises(BrokerUnavailable, match=f"port {broker.broker.port}"):
        ThreadedBroker(tmp_path / "other", broker.broker.port)


def test_garbage_on_the_wire_only_hangs_up(broker: ThreadedBroker) -> None:
    import socket

    for garbage in (b"GET / HTTP/1.1\r\n\r\n", b"\x00\x00\x00\x08" + b"\x00" * 8, b"\x7f\xff\xff\xff"):
        with socket.create_connection(("127.0.0.1", broker.broker.port), timeout=5) as client:
            client.sendall(garbage)
            client.shutdown(socket.SHUT_WR)
            while client.recv(4096):
                pass
    _send(broker.address, "t", [b"fine"])
    assert read_values(broker.address, "t", 1) == [b"fine"]


def test_the_command_says_when_it_listens_and_ends_on_sigterm(tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    arguments = ["broker", "--port", "0", "--ready-file", str(ready)]
    with start_command(arguments, environment(tmp_path, "127.0.0.1:1")) as process:
        wait_for(ready.exists)
        _send(ready.read_text(), "t", [b"x"])
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=10)
    assert process.returncode == 0, err
    assert out.splitlines()[0].startswith(f"broker listening on {ready.read_text()}")
