"""The ledger: the SQL transaction that makes Parquet files data and Kafka offsets read.

Everything an append changes goes into one transaction. Offsets move by compare-and-swap, so a consumer
that lost its partition without knowing (a zombie) is refused whole, files and all.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from sqlalchemy import CursorResult, Engine, delete, insert, select, true, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from qanchor.errors import OffsetsFenced, TopicRecreated
from qanchor.registry.session import transaction
from qanchor.registry.tables import LedgerFile, LedgerOffset, LoadedFile, utc_now

COMMITTED: Final = "committed"
PUBLISHED: Final = "published"
REPLACED: Final = "replaced"
_CHUNK: Final = 500  # names in one statement


@dataclass(frozen=True)
class StagedFile:
    """A file of one event date that is written but not yet data."""

    name: str
    event_date: str
    rows: int


@dataclass(frozen=True)
class OffsetRanges:
    """What an append read from Kafka.

    Args:
        group: consumer group.
        topic: topic.
        ranges: by partition the first offset and the one after the last. The first is the ledger's
            position, not the first record's offset: control records and compaction leave gaps.
        topic_id: the brokers' id of the topic; empty where they have none.
        skipped: by partition the offsets of a range that nobody will read, as far as that was requested.
    """

    group: str
    topic: str
    ranges: Mapping[int, tuple[int, int]]
    topic_id: str = ""
    skipped: Mapping[int, int] = field(default_factory=dict)


@dataclass(frozen=True)
class LedgerEntry:
    """One append, committed whole or not at all.

    Args:
        files: every staged file.
        offsets: what was read from Kafka, if anything.
        loaded: the file that was loaded, if one was.
        published: earlier files that have been renamed into place since.
    """

    files: Sequence[StagedFile] = ()
    offsets: OffsetRanges | None = None
    loaded: LoadedFile | None = None
    published: Sequence[str] = field(default=())


def commit_entry(engine: Engine, entry: LedgerEntry) -> None:
    """Commit an append: after this its files are data and its offsets are read.

    Raises:
        OffsetsFenced: another consumer moved a partition on; drop the rows, its owner has them.
        TopicRecreated: the offsets of the ledger are those of a topic that has been deleted.
        DatabaseUnavailable: the database failed; whether it committed is unknown, so run recovery first.
    """
    with transaction(engine) as session:
        if entry.offsets is not None:
            _move_offsets(session, entry.offsets)
        if entry.files:
            rows = [{**asdict(file), "state": COMMITTED} for file in entry.files]
            session.execute(insert(LedgerFile), rows)
        if entry.loaded is not None:
            session.add(entry.loaded)
        _set_published(session, entry.published)


def _move_offsets(session: Session, offsets: OffsetRanges) -> None:
    # Sorted, so that two consumers lock rows in one order.
    for partition, (start, end) in sorted(offsets.ranges.items()):
        key = (
            LedgerOffset.consumer_group == offsets.group,
            LedgerOffset.topic == offsets.topic,
            LedgerOffset.partition == partition,
        )
        skipped = offsets.skipped.get(partition, 0)
        same_topic = LedgerOffset.topic_id.in_(("", offsets.topic_id)) if offsets.topic_id else true()
        values = {"next_offset": end, "updated_at": utc_now(), "skipped": LedgerOffset.skipped + skipped}
        moved: CursorResult[Any] = session.execute(  # type: ignore[assignment]
            update(LedgerOffset)
            .where(*key, LedgerOffset.next_offset == start, same_topic)
            .values(values | ({"topic_id": offsets.topic_id} if offsets.topic_id else {}))
        )
        if moved.rowcount == 1:
            continue
        current = session.scalar(select(LedgerOffset).where(*key))
        if current is not None:
            if offsets.topic_id and current.topic_id not in ("", offsets.topic_id):
                raise TopicRecreated(offsets.topic)
            raise OffsetsFenced(offsets.topic, partition)
        first = LedgerOffset(
            consumer_group=offsets.group, topic=offsets.topic, partition=partition, next_offset=end,
            topic_id=offsets.topic_id, skipped=skipped,
        )  # fmt: skip
        session.add(first)
        try:
            session.flush()
        except IntegrityError:
            raise OffsetsFenced(offsets.topic, partition) from None


def _chunks(file_names: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(file_names), _CHUNK):
        yield file_names[start : start + _CHUNK]


def _set_published(session: Session, file_names: Sequence[str]) -> None:
    for chunk in _chunks(file_names):
        # Not one that compaction has replaced meanwhile.
        session.execute(
            update(LedgerFile)
            .where(LedgerFile.name.in_(chunk), LedgerFile.state == COMMITTED)
            .values(state=PUBLISHED)
        )


def mark_published(engine: Engine, file_names: Iterable[str]) -> None:
    """Note that committed files have been renamed into place."""
    listed = list(file_names)
    if listed:
        with transaction(engine) as session:
            _set_published(session, listed)


def committed_files(engine: Engine) -> dict[str, str]:
    """Event date by name of every file whose rename may still be due."""
    return _files_in(engine, COMMITTED)


def replaced_files(engine: Engine) -> dict[str, str]:
    """Event date by name of every file that a compaction has replaced and nobody has deleted yet."""
    return _files_in(engine, REPLACED)


def _files_in(engine: Engine, state: str) -> dict[str, str]:
    with transaction(engine) as session:
        rows = session.execute(
            select(LedgerFile.name, LedgerFile.event_date).where(LedgerFile.state == state)
        )
        return {row.name: row.event_date for row in rows}


def files_by_date(engine: Engine) -> dict[str, dict[str, LedgerFile]]:
    """The files that are data, by event date and name."""
    by_date: dict[str, dict[str, LedgerFile]] = {}
    with transaction(engine) as session:
        for file in session.scalars(select(LedgerFile).where(LedgerFile.state != REPLACED)):
            by_date.setdefault(file.event_date, {})[file.name] = file
    return by_date


def replace_files(engine: Engine, old: Iterable[LedgerFile], new: Sequence[StagedFile]) -> bool:
    """Make new files data instead of old ones, in one transaction.

    Args:
        engine: the registry.
        old: files that are data.
        new: every staged file; each counts as old as the newest of `old`.

    Returns:
        False if another compaction had replaced some of the old files already; then nothing changed.
    """
    files = {file.name: file for file in old}
    newest = max(file.created_at for file in files.values())
    with transaction(engine) as session:
        changed = 0
        for chunk in _chunks(sorted(files)):  # sorted, so that two compactions lock rows in one order
            moved: CursorResult[Any] = session.execute(  # type: ignore[assignment]
                update(LedgerFile)
                .where(LedgerFile.name.in_(chunk), LedgerFile.state != REPLACED)
                .values(state=REPLACED)
            )
            changed += moved.rowcount
        if changed != len(files):
            session.rollback()
            return False
        session.add_all(LedgerFile(**asdict(file), state=COMMITTED, created_at=newest) for file in new)
    return True


def forget_files(engine: Engine, file_names: Iterable[str]) -> None:
    """Drop replaced files that have been deleted."""
    with transaction(engine) as session:
        for chunk in _chunks(sorted(file_names)):
            session.execute(
                delete(LedgerFile).where(LedgerFile.name.in_(chunk), LedgerFile.state == REPLACED)
            )


def newest_files(engine: Engine, limit: int) -> dict[str, str]:
    """Event date by name of the files that were committed last, the newest first."""
    with transaction(engine) as session:
        rows = session.execute(
            select(LedgerFile.name, LedgerFile.event_date)
            .where(LedgerFile.state != REPLACED)
            .order_by(LedgerFile.created_at.desc())
            .limit(limit)
        )
        return {row.name: row.event_date for row in rows}


def next_offsets(engine: Engine, group: str, topic: str) -> dict[int, int]:
    """By partition the next offset to read; partitions that were never read are absent."""
    with transaction(engine) as session:
        rows = session.execute(
            select(LedgerOffset.partition, LedgerOffset.next_offset).where(
                LedgerOffset.consumer_group == group, LedgerOffset.topic == topic
            )
        )
        return {row.partition: row.next_offset for row in rows}


def has_offsets(engine: Engine, group: str) -> bool:
    """Whether a consumer group has ever read anything."""
    with transaction(engine) as session:
        row = session.scalar(select(LedgerOffset.topic).where(LedgerOffset.consumer_group == group).limit(1))
        return row is not None


def topic_ids(engine: Engine, group: str, topic: str) -> frozenset[str]:
    """Ids of the topics that the ledger's offsets belong to; empty where no id is known."""
    with transaction(engine) as session:
        rows = session.scalars(
            select(LedgerOffset.topic_id).where(
                LedgerOffset.consumer_group == group, LedgerOffset.topic == topic
            )
        )
        return frozenset(rows) - {""}


def forget_topic(engine: Engine, groups: Sequence[str], topic: str) -> None:
    """Drop the offsets of a topic that has been deleted, so that its successor is read from the beginning."""
    with transaction(engine) as session:
        session.execute(
            delete(LedgerOffset).where(LedgerOffset.consumer_group.in_(groups), LedgerOffset.topic == topic)
        )


def find_loaded(engine: Engine, content_hash: str) -> LoadedFile | None:
    """The load that took in a file of this content, if there was one."""
    with transaction(engine) as session:
        return session.scalar(select(LoadedFile).where(LoadedFile.content_hash == content_hash))
