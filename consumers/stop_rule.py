"""When a consumer ends by itself, and whether it has reached the topic's end."""

import time
from dataclasses import dataclass
from typing import Any, Final

from kafka import KafkaConsumer, TopicPartition
from kafka.errors import IllegalStateError, KafkaError

from consumers.assignment import Assignment
from qanchor.errors import QAnchorError

_ENDS_MS: Final = 5_000
_POSITION_MS: Final = 1_000
# A member that died is noticed when its session is over, and its partitions come to the others after that.
_SESSIONS: Final = 2.0


@dataclass(frozen=True)
class StopRule:
    """When the consumer ends by itself; without a rule only a signal ends it.

    Args:
        idle_seconds: after this long without a message.
        at_end: once everything that was on the topic at first is written, by whichever consumer.
    """

    idle_seconds: float | None = None
    at_end: bool = False

    @property
    def is_service(self) -> bool:
        """Whether only a signal ends the consumer."""
        return self.idle_seconds is None and not self.at_end


class EndOfTopic:
    """The topic's end as it was at the first check.

    Args:
        client: the KafkaConsumer.
        assignment: partitions that it owns.
        topic: topic.
        session_seconds: silence after which the group takes a member for dead.
    """

    def __init__(
        self, client: KafkaConsumer, assignment: Assignment, topic: str, session_seconds: float
    ) -> None:
        self._client, self._assignment, self._topic = client, assignment, topic
        self._session_seconds = session_seconds
        self._ends: dict[Any, int] = {}

    def is_reached(self) -> bool:
        """Everything before it is read from this consumer's partitions and written from the others'.

        The others' owner may be dead without the group's knowing yet: then they come here. It may as well be
        alive and slow; that one is left to its work once it has outlived a session or two.
        """
        try:
            if not self._ends and not self._find_ends():
                return False
            owned = self._client.assignment()
            if not all(self._is_read(partition) for partition in owned):
                return False
            others = self._ends.keys() - owned
            return not others or self._are_written(others) or self._others_live()
        except (KafkaError, IllegalStateError, QAnchorError):
            return False  # a rebalance in between: look again after the next poll

    def _find_ends(self) -> bool:
        known = self._client.partitions_for_topic(self._topic) or set()
        partitions = [TopicPartition(self._topic, number) for number in known]
        self._ends = dict(self._client.end_offsets(partitions, timeout_ms=_ENDS_MS)) if partitions else {}
        return bool(self._ends)

    def _is_read(self, partition: TopicPartition) -> bool:
        # Not the last message's offset: transaction markers lie behind it.
        position = self._client.position(partition, timeout_ms=_POSITION_MS) or 0
        return bool(position >= self._ends.get(partition, 0))

    def _are_written(self, partitions: set[Any]) -> bool:
        written = self._assignment.written()
        return all(written.get(p.partition, 0) >= self._ends[p] for p in partitions)

    def _others_live(self) -> bool:
        return time.monotonic() - self._assignment.changed >= _SESSIONS * self._session_seconds
