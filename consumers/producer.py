"""Sending a file of events to Kafka, in the form that the consumer reads."""

import gc
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Final

import msgspec
from kafka import KafkaProducer
from kafka.partitioner import murmur2

from consumers.encode import Message, encode_table
from consumers.kafka_client import ensure_topics, explained, open_client, prepare_library
from consumers.kafka_errors import Use
from qanchor import names
from qanchor.errors import EventsInvalid
from qanchor.events.files import open_event_file
from qanchor.events.quality import EventChecker
from qanchor.events.schema import EventDecoder
from qanchor.progress import Progress
from qanchor.settings import KafkaSettings

_FLUSH_SECONDS: Final = 120.0
_JSON_LINES: Final = (".jsonl", ".ndjson", ".json")
_PACE_EVERY: Final = 100
_MOST_ROUTES: Final = 1_000_000
_ENCODE: Final = msgspec.json.Encoder(enc_hook=str).encode


@dataclass(frozen=True)
class ProduceSummary:
    """What was sent.

    Args:
        sent: messages that the brokers acknowledged.
        invalid: of those, rows that the consumer will refuse.
        seconds: from the first to the last acknowledgement.
    """

    sent: int
    invalid: int
    seconds: float

    @property
    def rate(self) -> float:
        """Messages per second."""
        return self.sent / max(self.seconds, 1e-9)


def event_messages(path: Path, decoder: EventDecoder, assume_utc: bool = False) -> Iterator[Message]:
    """A file's rows as messages, in order.

    JSON lines go as they are. Rows of Parquet and CSV get the event_id that `events load` would give them, so
    loading and streaming one file adds its events once; invalid rows go too, for the consumer to refuse.

    Raises:
        EventsInvalid: the file cannot be read.
    """
    if path.suffix.lower() in _JSON_LINES:
        yield from _json_lines(path)
        return
    file = open_event_file(path)
    checker = EventChecker(decoder, file.is_text, assume_utc)
    for batch in file.batches():
        checked = checker.check(batch)
        yield from encode_table(decoder, checked.table)
        for rejection in checked.rejections:
            user = str(rejection.event.get(names.USER_ID, ""))
            yield Message(user, _ENCODE(dict(rejection.event)), False)


def _rows_of(path: Path) -> int | None:
    return None if path.suffix.lower() in _JSON_LINES else open_event_file(path).rows


def _json_lines(path: Path) -> Iterator[Message]:
    if not path.is_file():
        raise EventsInvalid(f"there is no file {path}", "Pass Parquet, CSV or JSON lines.")
    with path.open("rb") as lines:
        for line in lines:
            if line := line.strip():
                yield Message(_user_of(line), line)


class _Keyed(msgspec.Struct, gc=False):
    user_id: str = ""


_KEY: Final = msgspec.json.Decoder(_Keyed).decode


def _user_of(line: bytes) -> str:
    try:
        return _KEY(line).user_id
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return ""


def produce_file(
    path: Path,
    decoder: EventDecoder,
    settings: KafkaSettings,
    progress: Progress,
    rate: float | None = None,
) -> ProduceSummary:
    """Send a file's events, keyed by user, and wait until the brokers have them.

    Args:
        path: Parquet, CSV or JSON lines.
        decoder: the rules; gives every row its event_id.
        settings: brokers and topic; a missing topic is created where the cluster lets us.
        progress: counts messages.
        rate: messages per second at most; default: as fast as it goes.

    Raises:
        EventsInvalid: the file cannot be read.
        BrokerUnavailable: no broker answers; run it again, events that are there already add nothing.
    """
    prepare_library()
    messages = event_messages(path, decoder)
    first = next(messages, None)  # a file that cannot be read fails before a broker is contacted
    if first is None:
        raise EventsInvalid(f"{path} holds no rows", "Pass a file with events.")
    ensure_topics(settings, {settings.topic: settings.partitions})
    gc.set_threshold(50_000, 20, 100)
    producer = open_client(
        settings,
        KafkaProducer,
        acks="all",
        compression_type="zstd",
        linger_ms=20,
        batch_size=262_144,
        allow_auto_create_topics=True,
    )
    try:
        progress.start("producing", _rows_of(path))
        with explained(settings, Use("WRITE", settings.topic)):
            return _Sending(producer, settings, progress).run(first, messages, rate)
    finally:
        producer.close(timeout=1)


class _Routes(dict[str, tuple[bytes, int]]):
    """By user the message key and its partition: kafka-python hashes in Python, here once for each user."""

    def __init__(self, partitions: list[int]) -> None:
        super().__init__()
        self._partitions = partitions

    def __missing__(self, user: str) -> tuple[bytes, int]:
        key = user.encode()
        # As every Kafka client's default, so that all producers agree on a user's partition.
        partition = self._partitions[(murmur2(key) & 0x7FFFFFFF) % len(self._partitions)]
        if len(self) >= _MOST_ROUTES:
            self.clear()
        self[user] = (key, partition)
        return key, partition


class _Sending:
    def __init__(self, producer: KafkaProducer, settings: KafkaSettings, progress: Progress) -> None:
        self._producer, self._settings, self._progress = producer, settings, progress
        self._error: BaseException | None = None

    def run(self, first: Message, rest: Iterator[Message], rate: float | None) -> ProduceSummary:
        began = time.monotonic()
        sent = invalid = 0
        topic, send, note_failure = self._settings.topic, self._producer.send, self._note_failure
        routes = _Routes(sorted(self._producer.partitions_for(topic)))
        for user, value, is_valid in chain((first,), rest):
            key, partition = routes[user]
            send(topic, value, key, partition=partition).add_errback(note_failure)
            sent += 1
            invalid += not is_valid
            if sent % _PACE_EVERY == 0:
                self._progress.advance(_PACE_EVERY)
                self._keep_pace(began, sent, rate)
        self._producer.flush(_FLUSH_SECONDS)
        self._raise_failure()
        self._progress.advance(sent % _PACE_EVERY)
        return ProduceSummary(sent, invalid, time.monotonic() - began)

    def _keep_pace(self, began: float, sent: int, rate: float | None) -> None:
        self._raise_failure()
        ahead = sent / rate - (time.monotonic() - began) if rate else 0.0
        if ahead > 0:
            time.sleep(ahead)

    def _note_failure(self, error: BaseException) -> None:
        self._error = error

    def _raise_failure(self) -> None:
        if self._error is not None:
            raise self._error
