"""The sink that makes Kafka messages rows of the event log, each exactly once."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from sqlalchemy import Engine

from consumers.decode import DecodedBatch, RejectedRecord
from qanchor.errors import EventsInvalid
from qanchor.events.schema import EventDecoder
from qanchor.registry.ledger import OffsetRanges
from qanchor.storage.event_log import EventLog, RepeatWindow, append, settle

_SMALLEST_JUDGED = 100  # records; of a handful, half may well be bad


class DeadLetters(Protocol):
    """Where refused messages go."""

    def send(self, rejected: list[RejectedRecord]) -> None:
        """Return once they are safe."""
        ...


@dataclass(frozen=True)
class Written:
    """One write that the ledger has committed.

    Args:
        ranges: by partition the first offset it covers and the next one to read.
        events: rows added to the event log.
        rejected: messages sent to the dead letters, by reason.
        oldest_ms: by partition the time of the record that has waited longest, milliseconds since the epoch.
        repeated: events left out because the log holds them already.
        table: the rows, with the log's columns.
        commit_seconds: how long the ledger's transaction took.
    """

    ranges: Mapping[int, tuple[int, int]]
    events: int
    rejected: Counter[str] = field(default_factory=Counter)
    oldest_ms: Mapping[int, int] = field(default_factory=dict)
    repeated: int = 0
    table: Any = None
    commit_seconds: float = 0.0

    @property
    def ends(self) -> dict[int, int]:
        """By partition the next offset to read."""
        return {partition: end for partition, (_, end) in self.ranges.items()}


@dataclass(frozen=True)
class EventLogSink:
    """Writes batches of Kafka records.

    Args:
        engine: the registry with the ledger.
        log: the event log.
        decoder: the rules.
        dead_letters: where refused messages go, before the ledger commits.
        group: consumer group.
        topic: topic.
        dead_letter_share: a larger share of refused messages stops the consumer.
        window: event_ids by which a producer's re-sends are recognised.
    """

    engine: Engine
    log: EventLog
    decoder: EventDecoder
    dead_letters: DeadLetters
    group: str
    topic: str
    dead_letter_share: float
    window: RepeatWindow

    def write(self, records: DecodedBatch, ranges: Mapping[int, tuple[int, int]]) -> Written:
        """Append decoded records; their offsets are committed with the rows.

        Raises:
            OffsetsFenced: another consumer owns a partition now; nothing was written.
            EventsInvalid: too many messages are refused; nothing was written.
            StoreUnavailable: disk, database or brokers; nothing counts.
        """
        rejected = records.rejected
        reasons = Counter(letter.reason for letter in rejected)
        if len(records) >= _SMALLEST_JUDGED and len(rejected) > self.dead_letter_share * len(records):
            raise self._too_many(reasons, len(records))
        self.dead_letters.send(rejected)
        fresh = self.window.select(records.table(self.decoder), ranges)
        rows = append(self.engine, self.log, fresh.table, OffsetRanges(self.group, self.topic, ranges))
        self.window.remember(fresh, ranges)
        return Written(
            ranges, rows, reasons, records.oldest_ms, fresh.repeated, fresh.table, self.log.commit_seconds
        )

    def _too_many(self, reasons: Counter[str], records: int) -> EventsInvalid:
        reason, count = reasons.most_common(1)[0]
        return EventsInvalid(
            f"{reasons.total():,} of {records:,} messages of {self.topic!r} are refused,"
            f" mostly {reason} ({count:,})",
            "Correct the producer or modalities.yaml, or raise QANCHOR_KAFKA__DEAD_LETTER_SHARE.",
        )

    def settle(self) -> None:
        """Tell the ledger about the last renames."""
        settle(self.engine, self.log)
