"""A member of a consumer group through joins that take longer than a poll."""

import time
from contextlib import closing

import pytest
from kafka import KafkaProducer
from kafka.coordinator.assignors.cooperative_sticky import CooperativeStickyAssignor

from consumers.embedded_broker.server import Fault
from consumers.group_member import GroupMember
from tests.integration.brokers import ThreadedBroker

pytestmark = pytest.mark.integration

_METADATA, _JOIN, _SYNC = 3, 11, 14
_NONE, _SLOW = Fault(), Fault(delay_seconds=0.3)
_POLL_MS = 20


@pytest.mark.parametrize("slow", [_JOIN, _SYNC])
def test_a_join_that_new_metadata_asks_for_may_take_longer_than_a_poll(
    broker: ThreadedBroker, slow: int
) -> None:
    with closing(KafkaProducer(bootstrap_servers=broker.address)) as producer:
        producer.send("events", b"sent").get(10)
    options = {
        "bootstrap_servers": broker.address,
        "group_id": "g",
        "group_instance_id": "one",
        "partition_assignment_strategy": [CooperativeStickyAssignor],
        "enable_auto_commit": False,
        "auto_offset_reset": "earliest",
    }
    with closing(GroupMember(**options)) as member:
        # The first join is over before the topic's partitions are known; the second one is slow.
        broker.inject(_METADATA, _SLOW)
        broker.inject(slow, _NONE, _SLOW)
        member.subscribe(["events"])
        found: list[bytes] = []
        ends = time.monotonic() + 5
        while not found and time.monotonic() < ends:
            found = [record.value for some in member.poll(_POLL_MS).values() for record in some]
    assert not broker.broker.faults[slow]
    assert found == [b"sent"]
