"""How far readers of a topic have come, by the ledger: the event log, and what is made of it afterwards.

What follows the log, such as the online view, keeps its own offsets in the ledger under a group of its own.
Where they stand behind the log's, a process was killed between the two, and something is to be made up for.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy import Engine, func, select

from qanchor.errors import OffsetsFenced
from qanchor.registry.ledger import LedgerEntry, OffsetRanges, commit_entry
from qanchor.registry.session import transaction
from qanchor.registry.tables import LedgerOffset, LoadedFile


def online_group(group: str) -> str:
    """The ledger's name for what a consumer group has brought to the online store."""
    return f"{group}:online"


@dataclass(frozen=True)
class Position:
    """Where the ledger stands in one partition.

    Args:
        next_offset: the first message that is not written.
        committed_at: when it was moved last; UTC.
        online_offset: the first message whose user's online row does not know it; None without --online.
    """

    next_offset: int
    committed_at: datetime
    online_offset: int | None = None


def positions(engine: Engine, group: str, topic: str) -> dict[int, Position]:
    """By partition where the ledger stands; partitions that were never read are absent."""
    columns = (LedgerOffset.partition, LedgerOffset.next_offset, LedgerOffset.updated_at)
    with transaction(engine) as session:
        of_group = select(*columns, LedgerOffset.consumer_group).where(LedgerOffset.topic == topic)
        rows = session.execute(
            of_group.where(LedgerOffset.consumer_group.in_((group, online_group(group))))
        ).all()
    online = {row.partition: row.next_offset for row in rows if row.consumer_group != group}
    return {
        row.partition: Position(
            row.next_offset, row.updated_at.replace(tzinfo=UTC), online.get(row.partition)
        )
        for row in sorted(rows, key=lambda row: row.partition)
        if row.consumer_group == group
    }


def move_online(engine: Engine, group: str, topic: str, moves: Mapping[int, tuple[int, int]]) -> bool:
    """Note that the online store knows everything up to the moves' ends.

    Args:
        engine: the registry.
        group: consumer group.
        topic: topic.
        moves: by partition from where to where; all or none of them.

    Returns:
        False if another consumer has moved one of them meanwhile: look again.
    """
    forward = {partition: move for partition, move in moves.items() if move[0] != move[1]}
    try:
        commit_entry(engine, LedgerEntry(offsets=OffsetRanges(online_group(group), topic, forward)))
    except OffsetsFenced:
        return False
    return True


def last_load(engine: Engine) -> int:
    """Number of the last file that was loaded into the event log; 0 before the first."""
    with transaction(engine) as session:
        return session.scalar(select(func.max(LoadedFile.id))) or 0
