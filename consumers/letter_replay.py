"""Reading the dead-letter topic, and sending letters back once what refused them is mended.

What has been sent back is noted in the topic itself, in one transaction with the sending: a second call sends
nothing twice, from whatever machine, and a call that is killed has done all or nothing of a batch.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final, NamedTuple

from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from kafka.errors import KafkaError

from consumers import dead_letters as box
from consumers.kafka_client import explained, open_client, prepare_library
from consumers.kafka_errors import Use, no_broker
from qanchor.errors import NotReady
from qanchor.settings import KafkaSettings

_POLL_MS: Final = 500
_PATIENCE_SECONDS: Final = 15.0
_BATCH: Final = 5_000  # letters of one transaction


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
    """

    origin: Origin
    first: str
    reason: str
    detail: str
    refused_ms: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes]]

    @property
    def was_sent_back(self) -> bool:
        """It is a message that was sent back and refused again."""
        return self.first != str(self.origin)


@dataclass(frozen=True)
class DeadLetterSummary:
    """What the dead-letter topic holds.

    Args:
        letters: each message once, however often it was written; in the topic's order.
        replayed: the first origins of those that have been sent back.
    """

    letters: Sequence[Letter]
    replayed: frozenset[str]


def read_letters(settings: KafkaSettings) -> DeadLetterSummary:
    """Every letter that the dead-letter topic still holds; all of it in memory.

    Raises:
        BrokerUnavailable: no broker answers.
    """
    prepare_library()
    consumer = open_client(
        settings,
        KafkaConsumer,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        isolation_level="read_committed",
    )
    letters: dict[Origin, Letter] = {}
    replayed: set[str] = set()
    with closing(consumer), explained(settings, Use("READ", settings.dead_letter_topic)):
        for record in _records(consumer, settings):
            headers = dict(record.headers)
            if box.REPLAYED in headers:
                replayed.add(_text(headers[box.REPLAYED]))
            elif box.OFFSET in headers:
                letter = _letter(record, headers)
                letters.setdefault(letter.origin, letter)
    return DeadLetterSummary(list(letters.values()), frozenset(replayed))


def _records(consumer: Any, settings: KafkaSettings) -> Iterator[Any]:
    """What the topic holds now, up to its end of this moment."""
    numbers = consumer.partitions_for_topic(settings.dead_letter_topic) or set()
    partitions = [TopicPartition(settings.dead_letter_topic, number) for number in numbers]
    if not partitions:
        return
    consumer.assign(partitions)
    consumer.seek_to_beginning(*partitions)
    ends, moved = consumer.end_offsets(partitions), time.monotonic()
    # Not the last record's offset: transaction markers lie behind it.
    while any(consumer.position(partition) < end for partition, end in ends.items()):
        polled = consumer.poll(_POLL_MS)
        if polled:
            moved = time.monotonic()
        elif time.monotonic() - moved > _PATIENCE_SECONDS:
            raise no_broker(settings)
        for records in polled.values():
            yield from records


def _letter(record: Any, headers: dict[str, bytes]) -> Letter:
    origin = Origin(
        _text(headers[box.TOPIC]), int(headers.get(box.PARTITION, b"0")), int(headers[box.OFFSET])
    )
    return Letter(
        origin,
        _text(headers[box.REPLAY_OF]) if box.REPLAY_OF in headers else str(origin),
        _text(headers.get(box.REASON, b"unknown")),
        _text(headers.get(box.DETAIL, b"")),
        record.timestamp,
        record.key,
        record.value,
        box.original_headers(record),
    )


def _text(value: bytes) -> str:
    return value.decode(errors="replace")


@dataclass(frozen=True)
class Replay:
    """What one call has sent.

    Args:
        sent: letters sent back.
        already: letters left alone, because they have been sent back before.
    """

    sent: int
    already: int


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
    summary = read_letters(settings)
    # A message that is refused again has several letters; it is sent once, and counts as sent back before.
    waiting = {letter.first: letter for letter in summary.letters if chosen(letter)}
    due = [letter for first, letter in waiting.items() if again or first not in summary.replayed]
    if due:
        _send(settings, due, to)
    return Replay(len(due), len(waiting) - len(due))


def _send(settings: KafkaSettings, letters: Sequence[Letter], to: str | None) -> None:
    # One name: of two calls at once the earlier is refused by the brokers, so nothing is sent twice.
    name = f"{settings.group}.deadletters"
    producer = open_client(
        settings, KafkaProducer, transactional_id=name, enable_idempotence=True, acks="all"
    )
    with closing(producer), explained(settings, Use("WRITE", to or settings.topic, name)):
        try:
            producer.init_transactions()
            left = iter(letters)
            while batch := list(islice(left, _BATCH)):
                producer.begin_transaction()
                for letter in batch:
                    back = [*letter.headers, (box.REPLAY_OF, letter.first.encode())]
                    producer.send(to or letter.origin.topic, letter.value, letter.key, back)
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
