"""A consumer that ends every join it begins.

kafka-python (3.0.12) may forget one. A join that new metadata calls for (a topic's first or more partitions)
has no other cause: as soon as the assignment is worked out, the metadata is no longer new. If the
poll that began the join has timed out by then, the next polls see no reason to wait for it. The broker counts
a member that owns its partitions; the member owns none, sends no heartbeat and reads nothing, for ever.
"""

from typing import Any

from kafka import KafkaConsumer
from kafka.coordinator.base import MemberState


class GroupMember(KafkaConsumer):  # type: ignore[misc]  # kafka-python has no types
    """A KafkaConsumer in a group."""

    def poll(self, *args: Any, **kwargs: Any) -> dict[Any, list[Any]]:
        """Fetch records; arguments as of KafkaConsumer.poll.

        Returns:
            Lists of records by partition.
        """
        # Between two polls nobody else ends a join: one that is under way waits for this poll.
        if self.group_metadata().state is MemberState.REBALANCING:
            self._coordinator.request_rejoin()
        records: dict[Any, list[Any]] = super().poll(*args, **kwargs)
        return records
