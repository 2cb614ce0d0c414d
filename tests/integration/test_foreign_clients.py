"""librdkafka, an independent implementation, against the embedded broker; ours against its mock cluster."""

import io
import json
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import confluent_kafka as librdkafka
import fastavro
import pytest
from kafka import KafkaProducer

from consumers.embedded_broker.server import Fault
from qanchor.events.published import avro_schema
from tests.integration.brokers import ThreadedBroker, read_values, threaded_broker
from tests.integration.places import WORKSPACE, Place, event_names, make_events
from tests.unit.consumers.registry_stub import running_stub

pytestmark = pytest.mark.integration

_PRODUCE = 0


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ThreadedBroker]:
    with threaded_broker(tmp_path_factory.mktemp("broker")) as running:
        yield running


def _send(address: str, topic: str, values: list[bytes], **options: Any) -> list[Any]:
    """Send with librdkafka; the errors of the deliveries that failed."""
    failed: list[Any] = []
    producer = librdkafka.Producer(
        {"bootstrap.servers": address, **{name.replace("_", "."): value for name, value in options.items()}}
    )
    for value in values:
        producer.produce(topic, value, partition=0, on_delivery=lambda error, _: failed.append(error))
    assert producer.flush(20) == 0
    return [error for error in failed if error is not None]


@pytest.mark.parametrize("codec", ["none", "gzip", "snappy", "lz4", "zstd"])
@pytest.mark.parametrize("idempotent", [False, True])
def test_what_librdkafka_produces_is_read_whole(broker: ThreadedBroker, codec: str, idempotent: bool) -> None:
    values, topic = [b"%d" % i * 20 for i in range(300)], f"from-{codec}-{idempotent}"
    assert _send(broker.address, topic, values, compression_type=codec, enable_idempotence=idempotent) == []
    assert read_values(broker.address, topic, 300) == values


def test_an_idempotent_librdkafka_producer_survives_lost_answers(
    broker: ThreadedBroker,
) -> None:
    _send(broker.address, "lossy", [b"first"])
    broker.inject(_PRODUCE, Fault(lose_answer=True), Fault(disconnect=True), Fault(lose_answer=True))
    values = [b"%d" % i for i in range(30)]
    assert _send(broker.address, "lossy", values, enable_idempotence=True, linger_ms=0) == []
    assert read_values(broker.address, "lossy", 31) == [b"first", *values]


def test_librdkafka_transactions_are_seen_or_not(broker: ThreadedBroker) -> None:
    producer = librdkafka.Producer({"bootstrap.servers": broker.address, "transactional.id": "x"})
    producer.init_transactions(10)
    for value, keep in ((b"kept", True), (b"dropped", False), (b"kept too", True)):
        producer.begin_transaction()
        producer.produce("txn", value, partition=0)
        producer.flush(10)
        producer.commit_transaction(10) if keep else producer.abort_transaction(10)
    assert read_values(broker.address, "txn", 2, isolation_level="read_committed") == [b"kept", b"kept too"]


@pytest.mark.parametrize("codec", [None, "gzip", "snappy", "lz4", "zstd"])
def test_a_librdkafka_group_reads_what_kafka_python_produces_and_keeps_its_place(
    broker: ThreadedBroker, codec: str | None
) -> None:
    topic, values = f"to-{codec}", [b"%d" % i for i in range(100)]
    producer = KafkaProducer(bootstrap_servers=broker.address, compression_type=codec)
    for value in values:
        producer.send(topic, value, partition=0)
    producer.close()
    consumer = librdkafka.Consumer(
        {"bootstrap.servers": broker.address, "group.id": topic, "auto.offset.reset": "earliest"}
    )
    consumer.subscribe([topic])
    found = [message.value() for message in consumer.consume(100, 15)]
    assert found == values
    consumer.commit(asynchronous=False)
    assert consumer.committed([librdkafka.TopicPartition(topic, 0)], 10)[0].offset == 100
    consumer.close()


def _produce_events(address: str, topic: str, start: int, stop: int) -> None:
    # The partitioner of the Java client and of kafka-python; librdkafka's default is another.
    options = {"bootstrap.servers": address, "partitioner": "murmur2_random", "compression.type": "zstd"}
    producer = librdkafka.Producer(options)
    for event in make_events(start, stop):
        producer.produce(topic, json.dumps(event).encode(), key=event["user_id"].encode())
    assert producer.flush(20) == 0


def test_events_that_librdkafka_sent_reach_the_event_log(broker: ThreadedBroker, tmp_path: Path) -> None:
    place = Place(tmp_path / "home", broker.address, {"topic": "events", "group": "events"})
    _produce_events(broker.address, "events", 0, 300)
    place.produce(make_events(300, 400))
    assert place.consume().events == 400
    assert place.ids() == (event_names(0, 400), 400)


def test_avro_messages_reach_the_event_log_and_unknown_schemas_the_dead_letters(
    broker: ThreadedBroker, tmp_path: Path
) -> None:
    schema = avro_schema(WORKSPACE)
    writer = fastavro.parse_schema(dict(schema))
    values = []
    for event in make_events(0, 100):
        stream = io.BytesIO()
        fastavro.schemaless_writer(
            stream, writer, {**event, "event_time": datetime.fromisoformat(event["event_time"])}
        )
        values.append(b"\x00" + (5).to_bytes(4) + stream.getvalue())
    values[7] = b"\x00" + (6).to_bytes(4) + values[7][5:]
    with running_stub() as registry:
        registry.schemas[5] = schema
        avro = {"topic": "avro", "group": "avro", "format": "avro", "schema_registry": registry.url}
        place = Place(tmp_path / "home", broker.address, avro)
        assert _send(broker.address, "avro", values) == []
        summary = place.consume()
    assert (summary.events, summary.rejected) == (99, {"unknown_schema": 1})
    assert place.ids()[0] == [name for name in event_names(0, 100) if name != event_names(7, 8)[0]]


def test_ours_runs_on_librdkafkas_mock_cluster(tmp_path: Path) -> None:
    options = {"test.mock.num.brokers": 3, "bootstrap.servers": "ignored:1", "log_level": 3}
    owner = librdkafka.Producer(options)  # the cluster lives as long as this client
    brokers = owner.list_topics(timeout=10).brokers.values()
    address = ",".join(f"{broker.host}:{broker.port}" for broker in brokers)
    # It knows no newer requests than these, groups of one member and no transactions.
    place = Place(tmp_path / "home", address, {"api_version": "2.3", "topic": "mocked"})
    place.produce(make_events(0, 200))
    _produce_events(address, "mocked", 200, 300)
    place.produce([{"no": "event"}])
    summary = place.consume()
    assert (summary.events, summary.rejected) == (300, {"missing_field": 1})
    assert place.ids() == (event_names(0, 300), 300)
