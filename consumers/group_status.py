"""How far the consumers have come: the topic's ends, the ledger, and who owns what now."""

import logging
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from kafka import IsolationLevel, TopicPartition
from kafka.admin import KafkaAdminClient, OffsetSpec
from kafka.errors import KafkaError, for_code
from sqlalchemy import Engine

from consumers.kafka_client import explained, open_client, prepare_library
from consumers.kafka_errors import Use
from qanchor.errors import BrokerUnavailable
from qanchor.registry.positions import Position, positions
from qanchor.settings import KafkaSettings

log = logging.getLogger(__name__)

_STABLE: Final = "Stable"
_ANSWER_MS: Final = 5_000


@dataclass(frozen=True)
class PartitionStatus:
    """One partition; None where it is not known.

    Args:
        partition: its number.
        end: offset after its newest message that may be read.
        begin: offset of its oldest message.
        position: where the ledger stands.
        owner: the consumer that has it now.
    """

    partition: int
    end: int | None
    begin: int | None
    position: Position | None
    owner: str | None

    @property
    def written(self) -> int | None:
        """The first offset that is not in the event log."""
        return None if self.position is None else self.position.next_offset

    @property
    def lag(self) -> int | None:
        """Messages that are not in the event log."""
        return None if self.end is None else max(0, self.end - max(self.written or 0, self.begin or 0))

    @property
    def online_lag(self) -> int | None:
        """Messages that the online store does not know; None where it is not kept up."""
        online = None if self.position is None else self.position.online_offset
        return None if self.end is None or online is None else max(0, self.end - online)

    @property
    def skipped(self) -> int:
        """Messages that were left out on request."""
        return 0 if self.position is None else self.position.skipped

    def commit_age_seconds(self, now: datetime | None = None) -> float | None:
        """How long ago the ledger was moved."""
        if self.position is None:
            return None
        return max(0.0, ((now or datetime.now(UTC)) - self.position.committed_at).total_seconds())


@dataclass(frozen=True)
class GroupStatus:
    """How far the consumers of a group have come.

    Args:
        partitions: in order.
        members: names of the running consumers.
        is_stable: no rebalance is under way.
        broker_problem: why the ends and owners are unknown, if they are.
    """

    partitions: list[PartitionStatus]
    members: list[str] = field(default_factory=list)
    is_stable: bool = False
    broker_problem: BrokerUnavailable | None = None


class GroupReader:
    """Reads the status again and again over one connection.

    Args:
        settings: brokers, topic and group.
        engine: the registry with the ledger.

    Raises:
        BrokerUnavailable: no broker answers.
        BrokerRefusal: the brokers refuse the login.
    """

    def __init__(self, settings: KafkaSettings, engine: Engine) -> None:
        prepare_library()
        self._settings, self._engine = settings, engine
        self._admin = open_client(settings, AdminClient)

    def read(self) -> GroupStatus:
        """The status of this moment.

        Raises:
            BrokerUnavailable: no broker answers.
            BrokerRefusal: the brokers refuse it.
            DatabaseUnavailable: the registry does not answer.
        """
        topic = self._settings.topic
        with explained(self._settings, Use("DESCRIBE", topic)):
            partitions = self._partitions(topic)
            # The ledger before the ends: what is written in between must not look like a negative lag, and a
            # lag that is too large by what came in between is gone at the next look.
            ledger = positions(self._engine, self._settings.group, topic)
            begins, ends = (
                self._offsets(partitions, OffsetSpec.EARLIEST),
                self._offsets(partitions, OffsetSpec.LATEST),
            )
            group = self._describe_group()
        owners = {
            number: _name(member)
            for member in group["members"]
            for assigned in (member["member_assignment"] or {}).get("assigned_partitions", ())
            if assigned["topic"] == topic
            for number in assigned["partitions"]
        }
        rows = [
            PartitionStatus(n, ends.get(n), begins.get(n), ledger.get(n), owners.get(n))
            for n in sorted({*ledger, *ends})
        ]
        members = sorted(_name(member) for member in group["members"])
        return GroupStatus(rows, members, group.get("group_state") == _STABLE)

    def _describe_group(self) -> dict[str, Any]:
        try:
            group: dict[str, Any] = self._admin.describe_groups([self._settings.group])[self._settings.group]
        except KafkaError as error:  # lag can be told all the same
            log.info("group_not_described group=%s error=%r", self._settings.group, error)
            return {"members": []}
        return group

    def _partitions(self, topic: str) -> list[TopicPartition]:
        (described,) = self._admin.describe_topics([topic])
        if described["error_code"]:
            raise for_code(described["error_code"])({topic})
        return [TopicPartition(topic, partition["partition_index"]) for partition in described["partitions"]]

    def _offsets(self, partitions: list[TopicPartition], spec: OffsetSpec) -> dict[int, int]:
        if not partitions:
            return {}
        answer = self._admin.list_partition_offsets(
            dict.fromkeys(partitions, spec), IsolationLevel.READ_COMMITTED, _ANSWER_MS
        )
        return {partition.partition: value.offset for partition, value in answer.items()}

    def close(self) -> None:
        """Close the connection."""
        self._admin.close()


class AdminClient(KafkaAdminClient):  # type: ignore[misc]  # kafka-python has no types
    """An admin client that is not interested in what this process may do with a group."""

    def _process_acl_operations(self, description: Any) -> Any:
        # kafka-python fails on operations that it does not know, of newer brokers and other makers' ones.
        return description


def read_status(settings: KafkaSettings, engine: Engine) -> GroupStatus:
    """The status of the configured group; without a broker, what the ledger knows.

    Raises:
        DatabaseUnavailable: the registry does not answer.
    """
    try:
        with closing(GroupReader(settings, engine)) as reader:
            return reader.read()
    except BrokerUnavailable as problem:
        ledger = positions(engine, settings.group, settings.topic)
        rows = [PartitionStatus(n, None, None, position, None) for n, position in sorted(ledger.items())]
        return GroupStatus(rows, broker_problem=problem)


def _name(member: Mapping[str, Any]) -> str:
    return str(member.get("group_instance_id") or member["member_id"])
