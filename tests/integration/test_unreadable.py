"""Messages and batches that cannot be taken as they come: none of them ends ingestion for good."""

import hashlib
import json
import os
import random
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kafka import KafkaConsumer, KafkaProducer, TopicPartition

from consumers.letter_replay import Letter, stream_letters, summarize_letters
from qanchor.errors import StoreUnavailable
from qanchor.registry.positions import positions
from tests.integration.apache_kafka import apache_kafka
from tests.integration.brokers import run_command, threaded_broker
from tests.integration.clusters import KINDS, Cluster, require_apache
from tests.integration.places import Place, event_names, make_event, make_events

pytestmark = pytest.mark.integration

_DICE = random.Random(5)


def _send(cluster: Cluster, value: bytes | None, headers: Any = (), **options: Any) -> None:
    codec = options.pop("codec", None)
    producer = KafkaProducer(
        bootstrap_servers=cluster.address, compression_type=codec, max_request_size=400 << 20, **options
    )
    producer.send(cluster.topic, value, b"k", list(headers), partition=0).get(30)
    producer.close()


def _letters(place: Place) -> list[Letter]:
    return [entry for entry in stream_letters(place.settings.kafka) if isinstance(entry, Letter)]


@pytest.mark.parametrize(
    ("value", "codec", "is_whole"),
    [
        (b"{" + b"x" * 3_000_000, "zstd", True),
        (_DICE.randbytes(1_048_400), None, False),
        (_DICE.randbytes(1_040_000), None, True),
    ],
    ids=["3 MB compressed", "as large as the topic takes", "with room for the reason"],
)
def test_a_large_refused_message_becomes_a_letter(
    tmp_path: Path, cluster: Cluster, value: bytes, codec: str | None, is_whole: bool
) -> None:
    place = cluster.place(tmp_path / "home")
    place.produce(make_events(0, 5))
    _send(cluster, value, codec=codec)
    place.produce(make_events(5, 10))
    summary = place.consume()
    assert (summary.events, summary.rejected.total()) == (10, 1)
    (letter,) = _letters(place)
    if is_whole:
        assert letter.value == value
        return
    assert (letter.is_truncated, letter.value) == (True, None)
    record = _records(cluster.address, cluster.dead_letter_topic)[0]
    headers = dict(record.headers)
    assert headers["dlq.size"] == str(len(value)).encode()
    assert headers["dlq.sha256"] == hashlib.sha256(value).hexdigest().encode()
    assert str(letter.origin).startswith(f"{cluster.topic}/0/")
    replayed = json.loads(run_command(["deadletters", "replay", "--json"], place.env).stdout)
    assert replayed == {"sent": 0, "sent_before": 0, "truncated": 1}


def _records(address: str, topic: str) -> list[Any]:
    consumer = KafkaConsumer(bootstrap_servers=address, auto_offset_reset="earliest")
    consumer.assign([TopicPartition(topic, 0)])
    records: list[Any] = []
    while polled := consumer.poll(1_500):
        records += [record for some in polled.values() for record in some]
    consumer.close()
    return records


def _raw_record(key: bytes | None, value: bytes | None, headers: list[tuple[bytes, bytes | None]]) -> bytes:
    """A record batch of one message, whatever a header's name is made of."""
    from kafka.record.util import calc_crc32c, encode_varint

    def sized(out: bytearray, data: bytes | None) -> None:
        encode_varint(-1 if data is None else len(data), out.append)
        out.extend(data or b"")

    body = bytearray([0])
    for number in (0, 0):
        encode_varint(number, body.append)
    sized(body, key)
    sized(body, value)
    encode_varint(len(headers), body.append)
    for name, content in headers:
        sized(body, name)
        sized(body, content)
    record = bytearray()
    encode_varint(len(body), record.append)
    now = 1_790_000_000_000
    tail = struct.pack(">hiqqqhii", 0, 0, now, now, -1, -1, -1, 1) + bytes(record + body)
    return struct.pack(">qiibI", 0, 9 + len(tail), 0, 2, calc_crc32c(tail)) + tail


def _send_raw(cluster: Cluster, batch: bytes) -> int:
    """Send a batch as it is; the broker's error code."""
    from kafka.admin import KafkaAdminClient
    from kafka.protocol.producer import ProduceRequest

    topic = ProduceRequest.TopicProduceData
    data = topic.PartitionProduceData(index=0, records=batch)
    request = ProduceRequest(
        transactional_id=None, acks=-1, timeout_ms=5_000, max_version=8,
        topic_data=[topic(name=cluster.topic, partition_data=[data])],
    )  # fmt: skip
    admin = KafkaAdminClient(bootstrap_servers=cluster.address)
    node = admin._manager.cluster.brokers()[0].node_id
    response = admin._manager.run(admin._manager.send, request, node)
    admin.close()
    return int(response.responses[0].partition_responses[0].error_code)


def test_no_bytes_of_a_header_key_or_value_end_the_consumer(tmp_path: Path, cluster: Cluster) -> None:
    place = cluster.place(tmp_path / "home")
    place.produce(make_events(0, 5))
    hostile: list[tuple[bytes | None, bytes | None, list[tuple[bytes, bytes | None]]]] = [
        (b"k", b"{", [(b"dlq.replay_of", None)]),
        (b"k", b"{", [(b"dlq.replay_of", b"\xff\xfe")]),
        (b"k", b"{", [(b"\xff\xfe\x00", b"\xff")]),
        (b"k", b"{", [(b"", None), (b"", b"")]),
        (None, None, []),
        (b"\xff" * 500, b"\x00\xff" * 500, [(b"x" * 1_000, None)]),
        (b"", b"", [(b"dlq.offset", None), (b"dlq.topic", b"\x00")]),
    ]
    for message in hostile:
        assert _send_raw(cluster, _raw_record(*message)) == 0
    place.produce(make_events(5, 10))
    summary = place.consume()
    assert (summary.events, summary.rejected.total()) == (10, len(hostile))
    listed = json.loads(run_command(["deadletters", "list", "--json"], place.env).stdout)
    assert (listed["letters"], listed["foreign"]) == (len(hostile), 0)
    replayed = run_command(["deadletters", "replay", "--json"], place.env)
    assert json.loads(replayed.stdout)["sent"] == len(hostile), replayed.stderr


def test_messages_of_others_in_the_dead_letter_topic_are_shown_as_foreign(
    tmp_path: Path, cluster: Cluster
) -> None:
    place = cluster.place(tmp_path / "home")
    place.produce([make_event(0), make_event(1, modality="unheard")])
    assert place.consume().rejected.total() == 1
    topic = [("dlq.topic", b"t")]
    producer = KafkaProducer(bootstrap_servers=cluster.address)
    for headers in (
        [*topic, ("dlq.offset", b"abc"), ("dlq.partition", b"0")],
        [*topic, ("dlq.offset", b"1"), ("dlq.partition", b"-")],
        [("dlq.offset", b"1"), ("dlq.partition", b"0")],
        [("dlq.offset", b"9" * 40), ("dlq.partition", b"0"), *topic],
        [],
    ):
        producer.send(cluster.dead_letter_topic, b"x", headers=headers).get(10)
    producer.close()
    summary = summarize_letters(place.settings.kafka)
    assert (summary.letters, summary.foreign) == (1, 5)
    assert (
        "foreign messages in the topic, left alone: 5"
        in run_command(["deadletters", "list"], place.env).stdout
    )
    replayed = run_command(["deadletters", "replay", "--json"], place.env)
    assert json.loads(replayed.stdout)["sent"] == 1, replayed.stderr


@pytest.mark.parametrize("codec", ["zstd", "gzip", "lz4", "snappy"])
def test_a_batch_that_grows_beyond_the_bound_is_a_letter(
    tmp_path: Path, cluster: Cluster, codec: str
) -> None:
    place = cluster.place(tmp_path / "home", largest_batch_bytes=1 << 20)
    place.produce(make_events(0, 5))
    # Snappy makes a twentieth of it at best, which has to fit into the topic's limit all the same.
    _send(cluster, b"x" * (2 << 20), codec=codec)
    place.produce(make_events(5, 10))
    summary = place.consume()
    assert (summary.events, summary.rejected) == (10, {"batch_too_large": 1})
    (letter,) = _letters(place)
    assert letter.reason == "batch_too_large"
    assert "more" in letter.detail or "larger than 1,048,576 bytes" in letter.detail


@pytest.fixture(params=KINDS)
def damaged(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Cluster, Place]]:
    """A topic of one partition whose second batch of three has a wrong checksum."""
    values = [json.dumps(make_event(number)).encode() for number in range(9)]

    def fill(cluster: Cluster, place: Place) -> None:
        place.produce([make_event(100)])
        for start in (0, 3, 6):
            producer = KafkaProducer(bootstrap_servers=cluster.address, linger_ms=500)
            for value in values[start : start + 3]:
                producer.send(cluster.topic, value, b"k")
            producer.close()

    folder = tmp_path / "data"
    if request.param == "embedded":
        with threaded_broker(folder) as first:
            cluster = Cluster(first.address, "damaged", first)
            place = cluster.place(tmp_path / "home", partitions=1)
            fill(cluster, place)
            log, port = folder / f"{cluster.topic}-0.log", first.broker.port
            partition = first.broker.state.topics[cluster.topic][0]
            position = partition._batches[2].position
            _flip(log, position + 70)
            yield cluster, place
        del port
        return
    require_apache()
    with apache_kafka(folder) as kafka:
        cluster = Cluster(kafka.address, "damaged", kafka=kafka)
        place = cluster.place(tmp_path / "home", partitions=1)
        fill(cluster, place)
        (log,) = kafka.segments(cluster.topic)
        data, position = log.read_bytes(), 0
        for _ in range(2):
            position += 12 + struct.unpack_from(">i", data, position + 8)[0]
        _flip(log, position + 70)
        yield cluster, place


def _flip(path: Path, position: int) -> None:
    with path.open("r+b") as file:
        file.seek(position)
        byte = file.read(1)[0]
        file.seek(position)
        file.write(bytes([byte ^ 0xFF]))
        file.flush()
        os.fsync(file.fileno())


def test_a_damaged_batch_ends_the_run_in_seconds_and_may_be_skipped(
    damaged: tuple[Cluster, Place],
) -> None:
    cluster, place = damaged
    with pytest.raises(StoreUnavailable, match="--skip 0:4") as ended:
        place.consume()
    assert "partition 0" in str(ended.value)
    assert place.ids()[0] == sorted([*event_names(0, 3), *event_names(100, 101)])  # what came before
    with pytest.raises(StoreUnavailable, match="--skip 0:4"):
        place.consume(skip=[(0, 99)])
    summary = place.consume(skip=[(0, 4)])
    assert (summary.events, summary.skipped) == (3, 3)
    (letter,) = _letters(place)
    assert (letter.reason, str(letter.origin)) == ("skipped_damaged", f"{cluster.topic}/0/4")
    assert "offsets 4 to 6" in letter.detail
    engine = place.engine
    assert positions(engine, cluster.group, cluster.topic)[0].next_offset == 10
    engine.dispose()
    assert place.consume().events == 0
