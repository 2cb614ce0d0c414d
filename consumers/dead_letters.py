"""The dead-letter topic: refused messages as they came, with the reason and where they came from.

At least once: a consumer killed between the send and its commit sends again. Who reads the topic tells
repeats apart by the headers dlq.topic, dlq.partition and dlq.offset.
"""

from collections.abc import Sequence
from typing import Any

from kafka import KafkaProducer
from kafka.errors import KafkaError

from consumers.decode import RejectedRecord
from consumers.kafka_client import connect, connection_options, no_broker
from qanchor.settings import KafkaSettings

_ACK_SECONDS = 30.0
_DETAIL_LENGTH = 500


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
            options = connection_options(self._settings)
            self._producer = connect(self._settings, lambda: KafkaProducer(**options, acks="all"))
        try:
            sent = [self._send_one(letter) for letter in rejected]
            self._producer.flush(_ACK_SECONDS)
            for future in sent:
                future.get(_ACK_SECONDS)
        except KafkaError as error:
            raise no_broker(self._settings) from error

    def _send_one(self, letter: RejectedRecord) -> Any:
        record = letter.record
        headers = [
            ("dlq.reason", letter.reason.encode()),
            ("dlq.error", letter.detail[:_DETAIL_LENGTH].encode(errors="replace")),
            ("dlq.topic", record.topic.encode()),
            ("dlq.partition", str(record.partition).encode()),
            ("dlq.offset", str(record.offset).encode()),
        ]
        return self._producer.send(
            self._settings.dead_letter_topic, key=record.key, value=record.value, headers=headers
        )

    def close(self) -> None:
        """Close the connection, if there is one."""
        if self._producer is not None:
            self._producer.close(timeout=1)
            self._producer = None
