"""Reading the dead-letter topic, and sending letters back once what refused them is repaired.

What has been sent back is noted in the topic itself, in one transaction with the sending: a second call sends
nothing twice, from whatever machine, and a call that is killed has done all or nothing of a batch.
"""

import re
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, Final, NamedTuple

from kafka import KafkaProducer, TopicPartition
from kafka.consumer.fetcher import ConsumerRecord
from kafka.errors import CorruptRecordError, KafkaError, TopicAuthorizationFailedError

from consumers import dead_letters as box
from consumers.batches import check_batches
from consumers.group_member import SafeConsumer
from consumers.kafka_client import ensure_topics, explained, open_client, prepare_library
from consumers.kafka_errors import Use, no_broker
from qanchor.errors import NotReady
from qanchor.settings import KafkaSettings

_POLL_MS: Final = 500
_PATIENCE_SECONDS: Final = 15.0
_BATCH: Final = 1_000  # letters of one transaction, and of one poll
_NUMBER: Final = re.compile(r"[0-9]{1,18}")


class Origin(NamedTuple):
    """Where a message was refused."""

    topic: str
    partition: int
    offset: int

    def __str__(self) -> str:
        """topic/partition/offset: a topic's name has no slash."""
        return f"{self.topic}/{self.partition}/{self.offset}"


@dataclass(frozen=True)
class Letter:
    """One refused message.

    Args:
        origin: where it was refused.
        first: where it was refused first; another origin for one that was sent back and refused again.
        reason: short, snake_case.
        detail: what exactly.
        refused_ms: when it came to the dead-letter topic, milliseconds since the epoch.
        key: as it came.
        value: as it came.
        headers: those of its producer.
        is_truncated: its value did not fit into the dead-letter topic; it cannot be sent back.
    """

    origin: Origin
    first: str
    reason: str
    detail: str
    refused_ms: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes]]
    is_truncated: bool = False

    @property
    def was_sent_back(self) -> bool:
        """It is a message that was sent back and refused again."""
        return self.first != str(self.origin)


@dataclass(frozen=True)
class SentBack:
    """The note that a letter has been sent back.

    Args:
        first: where its message was refused first.
    """

    first: str


@dataclass(frozen=True)
class Foreign:
    """A message in the dead-letter topic that no consumer of qanchor has written, or that cannot be read."""


def stream_letters(settings: KafkaSettings) -> Iterator[Letter | SentBack | Foreign]:
    """What the dead-letter topic holds now, in its order; a letter that was written twice comes twice.

    Raises:
        BrokerUnavailable: no broker answers.
        BrokerRefusal: the brokers refuse it.
    """
    prepare_library()
    check_batches(settings.largest_batch_bytes)
    consumer = open_client(
        settings,
        SafeConsumer,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        isolation_level="read_committed",
        max_poll_records=_BATCH,
        # A batch of letters may be as large as the topic lets it be.
        max_partition_fetch_bytes=4 << 20,
    )
    with closing(consumer), explained(settings, Use("READ", settings.dead_letter_topic)):
        for record in _records(consumer, settings):
            yield Foreign() if record is None else _read(record)


def _records(consumer: SafeConsumer, settings: KafkaSettings) -> Iterator[Any]:
    """The topic's records up to its end of this moment; None for a batch that cannot be read."""
    topic = settings.dead_letter_topic
    numbers = consumer.partitions_for_topic(topic) or set()
    if topic in consumer.unauthorized_topics:
        raise TopicAuthorizationFailedError({topic})
    partitions = [TopicPartition(topic, number) for number in numbers]
    if not partitions:
        return
    consumer.assign(partitions)
    consumer.seek_to_beginning(*partitions)
    ends, moved = consumer.end_offsets(partitions), time.monotonic()
    # Not the last record's offset: transaction markers lie behind it.
    while any(consumer.position(partition) < end for partition, end in ends.items()):
        try:
            polled = consumer.poll(_POLL_MS)
        except CorruptRecordError as error:
            consumer.pass_batch(error)
            yield None
            continue
        if polled:
            moved = time.monotonic()
        elif time.monotonic() - moved > _PATIENCE_SECONDS:
            raise no_broker(settings)
        for records in polled.values():
            yield from records


def _read(record: ConsumerRecord) -> Letter | SentBack | Foreign:
    headers = {name: value or b"" for name, value in record.headers}
    if box.REPLAYED in headers:
        return SentBack(_text(headers[box.REPLAYED]))
    numbers = [_text(headers.get(name, b"")) for name in (box.PARTITION, box.OFFSET)]
    if box.TOPIC not in headers or not all(_NUMBER.fullmatch(number) for number in numbers):
        return Foreign()
    origin = Origin(_text(headers[box.TOPIC]), int(numbers[0]), int(numbers[1]))
    return Letter(
        origin,
        _text(headers.get(box.REPLAY_OF, b"")) or str(origin),
        _text(headers.get(box.REASON, b"unknown")),
        _text(headers.get(box.DETAIL, b"")),
        record.timestamp,
        record.key,
        None if box.TRUNCATED in headers else record.value,
        box.original_headers(record),
        box.TRUNCATED in headers,
    )


def _text(value: bytes) -> str:
    return value.decode(errors="replace")


class _Counted(NamedTuple):
    """What the counts need of a letter."""

    first: str
    reason: str
    was_sent_back: bool


@dataclass(frozen=True)
class DeadLetterSummary:
    """What the dead-letter topic holds.

    Args:
        letters: number of messages, each once, however often it was written.
        reasons: by reason the letters, those that have been sent back, and those of them refused again.
        newest: the newest letters, newest first, without their contents.
        replayed: the first origins of those that have been sent back.
        foreign: messages that are no letters of qanchor.
    """

    letters: int
    reasons: Mapping[str, tuple[int, int, int]]
    newest: Sequence[Letter]
    replayed: frozenset[str]
    foreign: int


def summarize_letters(
    settings: KafkaSettings, reason: str | None = None, newest: int = 0
) -> DeadLetterSummary:
    """Count the letters by reason.

    Args:
        settings: brokers and topic.
        reason: the only one that counts; default: all.
        newest: number of letters to return.

    Raises:
        BrokerUnavailable: no broker answers.
        BrokerRefusal: the brokers refuse it.
    """
    seen: set[Origin] = set()
    counted: list[_Counted] = []
    last: deque[Letter] = deque(maxlen=newest)
    replayed: set[str] = set()
    foreign = 0
    for entry in stream_letters(settings):
        if isinstance(entry, SentBack):
            replayed.add(entry.first)
        elif isinstance(entry, Foreign):
            foreign += 1
        elif entry.origin not in seen and reason in (None, entry.reason):
            seen.add(entry.origin)
            counted.append(_Counted(entry.first, entry.reason, entry.was_sent_back))
            last.append(replace(entry, key=None, value=None, headers=()))
    total = Counter(one.reason for one in counted)
    back = Counter(one.reason for one in counted if one.first in replayed)
    again = Counter(one.reason for one in counted if one.was_sent_back)
    reasons = {name: (count, back[name], again[name]) for name, count in total.most_common()}
    return DeadLetterSummary(len(counted), reasons, [*reversed(last)], frozenset(replayed), foreign)


@dataclass(frozen=True)
class Replay:
    """What one call has sent.

    Args:
        sent: letters sent back.
        already: letters left alone, because they have been sent back before.
        truncated: letters left alone, because their value is not there.
    """

    sent: int
    already: int
    truncated: int = 0


def replay_letters(
    settings: KafkaSettings,
    chosen: Callable[[Letter], bool],
    to: str | None = None,
    again: bool = False,
) -> Replay:
    """Send letters back, with key, value and headers as they came, and remember it.

    Args:
        settings: brokers and topics.
        chosen: which letters.
        to: another topic than the one that each came from.
        again: those too that have been sent back before.

    Raises:
        BrokerUnavailable: no broker answers; what was not sent is still to be sent.
        NotReady: another call is sending letters back at this moment.
    """
    replayed: set[str] = set()
    waiting: set[str] = set()
    truncated = 0
    for entry in stream_letters(settings):
        if isinstance(entry, SentBack):
            replayed.add(entry.first)
        elif isinstance(entry, Letter) and chosen(entry):
            truncated += entry.is_truncated
            waiting |= set() if entry.is_truncated else {entry.first}
    due = waiting if again else waiting - replayed
    if due:
        _send(settings, _due_letters(settings, chosen, set(due)), to)
    return Replay(len(due), len(waiting) - len(due), truncated)


def _due_letters(
    settings: KafkaSettings, chosen: Callable[[Letter], bool], due: set[str]
) -> Iterator[Letter]:
    """Each due letter once: a message that is refused again has several, and is sent once."""
    for entry in stream_letters(settings):
        if isinstance(entry, Letter) and not entry.is_truncated and entry.first in due and chosen(entry):
            due.remove(entry.first)
            yield entry


def _send(settings: KafkaSettings, letters: Iterator[Letter], to: str | None) -> None:
    if to is not None:
        ensure_topics(settings, {to: settings.partitions})
    # One name: of two calls at once the earlier is refused by the brokers, so nothing is sent twice.
    name = f"{settings.group}.deadletters"
    producer = open_client(
        settings,
        KafkaProducer,
        transactional_id=name,
        enable_idempotence=True,
        acks="all",
        compression_type="zstd",
        max_request_size=box.LARGEST_REQUEST,
    )
    with closing(producer), explained(settings, Use("WRITE", to or settings.topic, name)):
        try:
            producer.init_transactions()
            while batch := list(islice(letters, _BATCH)):
                producer.begin_transaction()
                for letter in batch:
                    back = [*letter.headers, (box.REPLAY_OF, letter.first.encode())]
                    value = b"" if letter.key is None and letter.value is None else letter.value
                    producer.send(to or letter.origin.topic, value, letter.key, back)
                    note = [(box.REPLAYED, letter.first.encode())]
                    producer.send(settings.dead_letter_topic, headers=note, key=b"replayed")
                producer.flush()
                producer.commit_transaction()
        except KafkaError as error:
            if "Fenced" in type(error).__name__:
                raise NotReady(
                    "another call is sending dead letters back at this moment", "Wait until it has ended."
                ) from error
            raise
