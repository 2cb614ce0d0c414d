"""The dead-letter topic: refused messages as they came, with the reason and where they came from.

At least once: a consumer killed between the send and its commit sends again. Who reads the topic tells
repeats apart by the headers dlq.topic, dlq.partition and dlq.offset. The message's own headers stay.
"""

import hashlib
from collections.abc import Sequence
from typing import Any

from kafka import KafkaProducer
from kafka.consumer.fetcher import ConsumerRecord
from kafka.errors import MessageSizeTooLargeError, RecordListTooLargeError

from consumers.decode import RejectedRecord
from consumers.kafka_client import explained, open_client
from consumers.kafka_errors import Use
from qanchor.settings import KafkaSettings

_ACK_SECONDS = 30.0
_DETAIL_LENGTH = 500
_OWN = "dlq."  # the start of every header that is written here
REASON, DETAIL = "dlq.reason", "dlq.error"
TOPIC, PARTITION, OFFSET = "dlq.topic", "dlq.partition", "dlq.offset"
# On a message that `deadletters replay` has sent back: where it came to the consumers first.
REPLAY_OF = "dlq.replay_of"
# On a message without content in the dead-letter topic: the one that has been sent back.
REPLAYED = "dlq.replayed"
# On a letter whose value did not fit into the topic: that it was left out, its bytes and their hash.
TRUNCATED, SIZE, SHA256 = "dlq.truncated", "dlq.size", "dlq.sha256"
LARGEST_REQUEST = 256 << 20
_CHUNK = 500  # letters that wait for their acknowledgement at once
_KEY_LENGTH = 1_000
_Headers = list[tuple[str, bytes]]


def original_headers(record: ConsumerRecord) -> _Headers:
    """The headers of a record that its producer gave it."""
    # A header without a value is legal, but kafka-python refuses to send it.
    return [(name, value or b"") for name, value in record.headers if not name.startswith(_OWN)]


def _letter_headers(letter: RejectedRecord) -> _Headers:
    # Refused again: it keeps the name of its first time, or it could be sent back for ever.
    first = [(name, value) for name, value in letter.record.headers if name == REPLAY_OF and value]
    return [*_own_headers(letter), *first, *original_headers(letter.record)]


def _own_headers(letter: RejectedRecord) -> _Headers:
    record = letter.record
    return [
        (REASON, letter.reason.encode()),
        (DETAIL, letter.detail[:_DETAIL_LENGTH].encode(errors="replace")),
        (TOPIC, record.topic.encode()),
        (PARTITION, str(record.partition).encode()),
        (OFFSET, str(record.offset).encode()),
    ]


def _truncated_headers(letter: RejectedRecord) -> _Headers:
    value = letter.record.value or b""
    return [
        *_own_headers(letter),
        (TRUNCATED, b"true"),
        (SIZE, str(len(value)).encode()),
        (SHA256, hashlib.sha256(value).hexdigest().encode()),
    ]


class DeadLetterTopic:
    """Writes refused messages; connects with the first one.

    Args:
        settings: brokers and topic.
    """

    def __init__(self, settings: KafkaSettings) -> None:
        self._settings = settings
        self._producer: Any = None

    def send(self, rejected: Sequence[RejectedRecord]) -> None:
        """Send messages and wait until the brokers have them; what does not fit goes without its value.

        Raises:
            BrokerUnavailable: they do not answer; nothing may be committed.
            BrokerRefusal: they refuse it, for want of a permission for one.
        """
        if not rejected:
            return
        if self._producer is None:
            self._producer = open_client(
                self._settings,
                KafkaProducer,
                acks="all",
                allow_auto_create_topics=True,
                compression_type="zstd",
                # Larger than any topic's limit: what fits is the brokers' to say, after the compression.
                max_request_size=LARGEST_REQUEST,
                # An idempotent producer sends nothing more after a message that the brokers refused.
                enable_idempotence=False,
            )
        with explained(self._settings, Use("WRITE", self._settings.dead_letter_topic)):
            for start in range(0, len(rejected), _CHUNK):
                self._send_chunk(rejected[start : start + _CHUNK])

    def _send_chunk(self, rejected: Sequence[RejectedRecord]) -> None:
        sent = [self._send_one(letter, _letter_headers(letter)) for letter in rejected]
        self._producer.flush(_ACK_SECONDS)
        for letter, future in zip(rejected, sent, strict=True):
            try:
                future.get(_ACK_SECONDS)
            except (MessageSizeTooLargeError, RecordListTooLargeError):
                short = self._send_one(letter, _truncated_headers(letter), is_truncated=True)
                self._producer.flush(_ACK_SECONDS)
                short.get(_ACK_SECONDS)

    def _send_one(self, letter: RejectedRecord, headers: _Headers, is_truncated: bool = False) -> Any:
        record = letter.record
        key = record.key
        if is_truncated:
            key = None if key is None else key[:_KEY_LENGTH]
        value = None if is_truncated else record.value
        if key is None and value is None:
            value = b""  # kafka-python sends no message with neither
        return self._producer.send(self._settings.dead_letter_topic, key=key, value=value, headers=headers)

    def close(self) -> None:
        """Close the connection, if there is one."""
        if self._producer is not None:
            self._producer.close(timeout=1)
            self._producer = None
