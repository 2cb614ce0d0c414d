"""How far the consumers have come: the topic's ends, the ledger, and who owns what now."""

from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from kafka import KafkaConsumer, TopicPartition
from kafka.admin import KafkaAdminClient
from kafka.errors import KafkaError
from sqlalchemy import Engine

from consumers.kafka_client import connect, connection_options, no_broker, prepare_library
from qanchor.errors import BrokerUnavailable
from qanchor.registry.positions import Position, positions
from qanchor.settings import KafkaSettings

_ANSWER_MS: Final = 5_000


@dataclass(frozen=True)
class PartitionStatus:
    """One partition; None where it is not known.

    Args:
        partition: its number.
        end: offset after its newest message.
        written: the first offset that is not in the event log.
        online: the first offset that the online store does not know.
        owner: the consumer that has it now.
        committed_at: when the ledger was moved last; UTC.
    """

    partition: int
    end: int | None
    written: int | None
    online: int | None
    owner: str | None
    committed_at: datetime | None

    @property
    def lag(self) -> int | None:
        """Messages that are not in the event log."""
        return None if self.end is None else max(0, self.end - (self.written or 0))

    @property
    def online_lag(self) -> int | None:
        """Messages that the online store does not know; None where it is not kept up."""
        return None if self.end is None or self.online is None else max(0, self.end - self.online)

    def commit_age_seconds(self, now: datetime | None = None) -> float | None:
        """How long ago the ledger was moved."""
        if self.committed_at is None:
            return None
        return max(0.0, ((now or datetime.now(UTC)) - self.committed_at).total_seconds())


@dataclass(frozen=True)
class GroupStatus:
    """Where the consumers stand.

    Args:
        partitions: in order.
        members: names of the running consumers.
        broker_problem: why the ends and owners are unknown, if they are.
    """

    partitions: list[PartitionStatus]
    members: list[str] = field(default_factory=list)
    broker_problem: BrokerUnavailable | None = None


def read_status(settings: KafkaSettings, engine: Engine) -> GroupStatus:
    """Where the consumers of the configured group stand; without a broker, what the ledger knows.

    Raises:
        DatabaseUnavailable: the registry does not answer.
    """
    ledger = positions(engine, settings.group, settings.topic)
    try:
        ends, owners, members = _ask_brokers(settings)
    except BrokerUnavailable as problem:
        return GroupStatus(_rows(ledger, {}, {}), broker_problem=problem)
    return GroupStatus(_rows(ledger, ends, owners), members)


def _rows(
    ledger: Mapping[int, Position], ends: Mapping[int, int], owners: Mapping[int, str]
) -> list[PartitionStatus]:
    rows = []
    for number in sorted({*ledger, *ends}):
        known = ledger.get(number)
        rows.append(
            PartitionStatus(
                number,
                ends.get(number),
                known.next_offset if known else None,
                known.online_offset if known else None,
                owners.get(number),
                known.committed_at if known else None,
            )
        )
    return rows


def _ask_brokers(settings: KafkaSettings) -> tuple[dict[int, int], dict[int, str], list[str]]:
    prepare_library()
    options = {**connection_options(settings), "isolation_level": "read_committed"}
    consumer = connect(settings, lambda: KafkaConsumer(**options))
    try:
        with closing(consumer):
            numbers = consumer.partitions_for_topic(settings.topic) or set()
            places = [TopicPartition(settings.topic, number) for number in numbers]
            found = consumer.end_offsets(places, timeout_ms=_ANSWER_MS) if places else {}
        with closing(KafkaAdminClient(**connection_options(settings))) as admin:
            group = admin.describe_groups([settings.group])[settings.group]
    except (KafkaError, OSError) as error:
        raise no_broker(settings) from error
    owners = {
        number: _name(member)
        for member in group["members"]
        for assigned in (member["member_assignment"] or {}).get("assigned_partitions", ())
        if assigned["topic"] == settings.topic
        for number in assigned["partitions"]
    }
    ends = {place.partition: end for place, end in found.items()}
    return ends, owners, sorted(_name(member) for member in group["members"])


def _name(member: Mapping[str, Any]) -> str:
    return str(member.get("group_instance_id") or member["member_id"])
