"""A consumer that ends every join it begins, and claims in a join what it owns.

Three faults of kafka-python (3.0.12) are repaired here.

It may forget a join. A join that new metadata calls for (a topic's first or more partitions)
has no other cause: as soon as the assignment is worked out, the metadata is no longer new. If the
poll that began the join has timed out by then, the next polls see no reason to wait for it. The broker counts
a member that owns its partitions; the member owns none, sends no heartbeat and reads nothing, for ever.

Its cooperative assignor claims the last assignment even after the group has declared it lost. The leader
leaves to a member what it claims; what it claims and does not own is then read by nobody, for ever.

And it only logs that another process has joined under its name: it would go on reading, outside the group.
"""

from typing import Any

from kafka import KafkaConsumer, TopicPartition
from kafka.coordinator.assignors.cooperative_sticky import CooperativeStickyAssignor
from kafka.coordinator.base import MemberState
from kafka.errors import (
    CorruptRecordError,
    FencedInstanceIdError,
    KafkaError,
    TopicAuthorizationFailedError,
    UnknownTopicOrPartitionError,
)

from consumers.batches import DamagedBatch


class SafeConsumer(KafkaConsumer):  # type: ignore[misc]  # kafka-python has no types
    """A KafkaConsumer that goes on after a batch that cannot be read."""

    damaged: TopicPartition | None = None  # of the last batch that could not be read

    def poll(self, *args: Any, **kwargs: Any) -> dict[Any, list[Any]]:
        """Fetch records; arguments as of KafkaConsumer.poll.

        Returns:
            Lists of records by partition.
        """
        try:
            records: dict[Any, list[Any]] = super().poll(*args, **kwargs)
        except CorruptRecordError:
            # A generator that has raised yields nothing more, and kafka-python waits for it for ever, in a
            # busy loop and in front of every other partition. Without it the batch is fetched once more.
            fetched = self._fetcher._next_partition_records
            if fetched is not None:
                self.damaged = fetched.topic_partition
                fetched.drain()
            raise
        return records

    def pass_batch(self, error: CorruptRecordError) -> None:
        """Go on behind the batch that has raised an error."""
        if self.damaged is not None:
            position = self.position(self.damaged) or 0
            end = error.bounds.end if isinstance(error, DamagedBatch) else 0
            self.seek(self.damaged, max(end, position + 1))

    @property
    def unauthorized_topics(self) -> set[str]:
        """Topics that the newest metadata say nothing about, for want of a permission."""
        return set(self._cluster.unauthorized_topics)


class GroupMember(SafeConsumer):
    """A consumer in a group, with cooperative rebalances."""

    def __init__(self, **configs: Any) -> None:
        super().__init__(**{"partition_assignment_strategy": [CooperativeStickyAssignor], **configs})
        self._assignor = self._coordinator._assignors[CooperativeStickyAssignor.name]
        claim = self._assignor.metadata

        def claim_owned(topics: Any) -> Any:
            self._assignor.member_assignment = sorted(self._subscription.assigned_partitions())
            return claim(topics)

        self._assignor.metadata = claim_owned
        self._fenced: FencedInstanceIdError | None = None
        beat = self._coordinator._send_heartbeat_request

        async def beat_or_note(*args: Any) -> Any:
            try:
                return await beat(*args)
            except FencedInstanceIdError as error:
                self._fenced = error
                raise

        self._coordinator._send_heartbeat_request = beat_or_note

    def poll(self, *args: Any, **kwargs: Any) -> dict[Any, list[Any]]:
        """Fetch records; arguments as of KafkaConsumer.poll.

        Returns:
            Lists of records by partition.
        """
        if self._fenced is not None:
            raise self._fenced
        # Between two polls nobody else ends a join: one that is under way waits for this poll.
        if self.group_metadata().state is MemberState.REBALANCING:
            self._coordinator.request_rejoin()
        return super().poll(*args, **kwargs)

    def rejoin(self) -> None:
        """Join the group again with the next poll, so that its partitions are shared out again."""
        self._coordinator.request_rejoin()

    def read_to(self, topic: str) -> dict[int, int]:
        """By owned partition the offset that is fetched next; transaction markers lie before it, too."""
        positions = {}
        for partition in self._subscription.assigned_partitions():
            state = self._subscription.assignment.get(partition)
            if partition.topic == topic and state is not None and state.position is not None:
                positions[partition.partition] = int(state.position.offset)
        return positions

    def topic_problem(self, topic: str) -> KafkaError | None:
        """Why the topic cannot be read, as far as the newest metadata say; asks no broker."""
        if topic in self.unauthorized_topics:
            return TopicAuthorizationFailedError({topic})
        if self._cluster.partitions_for_topic(topic) is None:
            return UnknownTopicOrPartitionError(topic)
        return None

    def topic_id(self, topic: str) -> str:
        """Id of the topic in the newest metadata; empty where the brokers have none."""
        number = self._cluster.topic_id(topic)
        return "" if number is None or number.int == 0 else number.hex

    def find_topic_id(self, topic: str) -> str:
        """As `topic_id`, from the brokers."""
        self.partitions_for_topic(topic)
        return self.topic_id(topic)

    def refresh_metadata(self, timeout_ms: float) -> None:
        """Read the metadata again.

        Raises:
            KafkaError: no broker answered in time.
        """
        self._net.run(self._manager.wait_for, self._cluster.request_update(), timeout_ms)

    def partitions(self, topic: str) -> list[TopicPartition]:
        """The topic's partitions in the newest metadata."""
        return [TopicPartition(topic, number) for number in self._cluster.partitions_for_topic(topic) or ()]
