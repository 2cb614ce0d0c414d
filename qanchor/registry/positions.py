"""The positions of readers of a topic in the ledger: the event log, and what is derived from it.

What follows the log, such as the online view, keeps its offsets in the ledger under another group.
Where they are behind the log's, a process was killed between the two, and the rest has to be caught up.
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
    """The ledger's group for what a consumer group has written to the online store."""
    return f"{group}:online"


@dataclass(frozen=True)
class Position:
    """The ledger's position in one partition.

    Args:
        next_offset: the first message that is not written.
        committed_at: time of the last move, UTC.
        online_offset: the first message that its user's online row lacks; None without --online.
        skipped: messages that were left out on request, deleted ones and damaged ones.
    """

    next_offset: int
    committed_at: datetime
    online_offset: int | None = None
    skipped: int = 0


def positions(engine: Engine, group: str, topic: str) -> dict[int, Position]:
    """The ledger's position by partition; partitions that were never read are absent."""
    columns = (
        LedgerOffset.partition,
        LedgerOffset.next_offset,
        LedgerOffset.updated_at,
        LedgerOffset.skipped,
    )
    with transaction(engine) as session:
        of_group = select(*columns, LedgerOffset.consumer_group).where(LedgerOffset.topic == topic)
        rows = session.execute(
            of_group.where(LedgerOffset.consumer_group.in_((group, online_group(group))))
        ).all()
    online = {row.partition: row.next_offset for row in rows if row.consumer_group != group}
    return {
        row.partition: Position(
            row.next_offset, row.updated_at.replace(tzinfo=UTC), online.get(row.partition), row.skipped
        )
        for row in sorted(rows, key=lambda row: row.partition)
        if row.consumer_group == group
    }


def move_online(engine: Engine, group: str, topic: str, moves: Mapping[int, tuple[int, int]]) -> bool:
    """Record that the online store has everything up to the moves' ends.

    Args:
        engine: the registry.
        group: consumer group.
        topic: topic.
        moves: old and new offset by partition; all or none are moved.

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
