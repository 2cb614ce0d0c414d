"""The dead-letter topic: refused messages as they came, with the reason and where they came from.

At least once: a consumer killed between the send and its commit sends again. Who reads the topic tells
repeats apart by the headers dlq.topic, dlq.partition and dlq.offset. The message's own headers stay.
"""

from collections.abc import Sequence
from typing import Any

from kafka import KafkaProducer

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


def original_headers(record: Any) -> list[tuple[str, bytes]]:
    """The headers of a record that its producer gave it."""
    # A header without a value is legal, but kafka-python refuses to send it.
    return [(name, value or b"") for name, value in record.headers if not name.startswith(_OWN)]


class DeadLetterTopic:
    """Writes refused messages; connects with the first one.

    Args:
        settings: brokers and topic.
    """

    def __init__(self, settings: KafkaSettings) -> None:
        self._settings = settings
        self._producer: Any = None

    def send(self, rejected: Sequence[RejectedRecord]) -> None:
        """Send messages and wait until the brokers have them.

        Raises:
            BrokerUnavailable: they do not answer; nothing may be committed.
        """
        if not rejected:
            return
        if self._producer is None:
            self._producer = open_client(self._settings, KafkaProducer, acks="all")
        with explained(self._settings, Use("WRITE", self._settings.dead_letter_topic)):
            sent = [self._send_one(letter) for letter in rejected]
            self._producer.flush(_ACK_SECONDS)
            for future in sent:
                future.get(_ACK_SECONDS)

    def _send_one(self, letter: RejectedRecord) -> Any:
        record = letter.record
        headers = [
            (REASON, letter.reason.encode()),
            (DETAIL, letter.detail[:_DETAIL_LENGTH].encode(errors="replace")),
            (TOPIC, record.topic.encode()),
            (PARTITION, str(record.partition).encode()),
            (OFFSET, str(record.offset).encode()),
            # Refused again: it keeps the name of its first time, or it could be sent back for ever.
            *((name, value) for name, value in record.headers if name == REPLAY_OF),
            *original_headers(record),
        ]
        return self._producer.send(
            self._settings.dead_letter_topic, key=record.key, value=record.value, headers=headers
        )

    def close(self) -> None:
        """Close the connection, if there is one."""
        if self._producer is not None:
            self._producer.close(timeout=1)
            self._producer = None
