"""A watch over the whole group: lag by partition, and partitions that nobody reads.

A group may be stable and yet leave a partition without owner, or a member may own one and not read it; faults
of that kind have been met in clients and brokers. What they have in common is seen from outside: the topic's
end moves and the ledger does not. Then the members join again, and the partitions are shared out again.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Protocol

from consumers.group_status import GroupStatus, PartitionStatus
from consumers.metrics import ConsumerMetrics
from qanchor.errors import QAnchorError

log = logging.getLogger(__name__)

_MOST_BACKOFF: Final = 32
_SAMPLES: Final = 1_000


@dataclass(frozen=True)
class WatchTimes:
    """How often the watch looks, and how long it waits before it acts; seconds.

    Args:
        every: between two looks.
        unowned: that a partition of a stable group may be without owner.
        unread: that an owned partition may stay where it is while its end moves.
    """

    every: float = 5.0
    unowned: float = 9.0
    unread: float = 30.0


class StatusSource(Protocol):
    """Reads the group's status; `GroupReader` is it."""

    def read(self) -> GroupStatus:
        """The status of this moment."""
        ...

    def close(self) -> None:
        """Close the connection."""
        ...


@dataclass
class _Progress:
    """What has been seen of one partition.

    Args:
        written: offset of the ledger at the last look.
        since: when the ledger moved there.
        end: the topic's end then.
        latest: the topic's end at the last look.
        unowned_since: when it was first without owner in a stable group, if it is.
        ends: moments and ends of the looks since the oldest unread message came.
    """

    written: int
    since: float
    end: int
    latest: int = 0
    unowned_since: float | None = None
    ends: deque[tuple[float, int]] = field(default_factory=lambda: deque(maxlen=_SAMPLES))


class GroupWatch:
    """Looks at the group in a separate thread.

    Args:
        open_source: connects; called again after a failure.
        name: this consumer's name in the group.
        metrics: where lag and partitions without owner are exported.
        owned: partitions of this consumer.
        times: how often it looks and how long it waits.
    """

    def __init__(
        self,
        open_source: Callable[[], StatusSource],
        name: str,
        metrics: ConsumerMetrics,
        owned: Callable[[], frozenset[int]],
        times: WatchTimes | None = None,
    ) -> None:
        self._open_source, self._name, self._metrics, self._owned = open_source, name, metrics, owned
        self._times = times or WatchTimes()
        self._source: StatusSource | None = None
        self._progress: dict[int, _Progress] = {}
        self._rejoin, self._unread = threading.Event(), threading.Event()
        self._stop, self._wake = threading.Event(), threading.Event()
        self._not_before, self._backoff = 0.0, 1
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def look_soon(self) -> None:
        """Look at once: the assignment has changed."""
        self._wake.set()

    def close(self) -> None:
        """Stop looking."""
        self._stop.set()
        self._wake.set()

    def take_rejoin(self) -> bool:
        """Whether the group is to be joined again; True once for each time."""
        is_due = self._rejoin.is_set()
        self._rejoin.clear()
        return is_due

    def take_unread(self) -> bool:
        """Whether this consumer's partitions are to be read again; True once for each time."""
        is_due = self._unread.is_set()
        self._unread.clear()
        return is_due

    def _run(self) -> None:
        while not self._stop.is_set():
            self._wake.wait(self._times.every)
            self._wake.clear()
            if not self._stop.is_set():
                self._look_safely()
        self._drop_source()

    def _look_safely(self) -> None:
        try:
            if self._source is None:
                self._source = self._open_source()
            self.look(self._source.read(), time.monotonic())
        except QAnchorError as error:
            log.info("watch_failed error=%r", str(error))
            self._drop_source()

    def _drop_source(self) -> None:
        if self._source is not None:
            self._source.close()
            self._source = None

    def look(self, status: GroupStatus, now: float) -> None:
        """Export the lag, and request a join where a partition needs one.

        Args:
            status: of this moment.
            now: monotonic clock, seconds.
        """
        owned = self._owned()
        for row in status.partitions:
            self._note(row, status.is_stable, now)
        unowned = [row.partition for row in status.partitions if row.owner is None and row.end is not None]
        # One member speaks for what nobody owns, so that sums over all members are right.
        speaks = bool(status.members) and status.members[0] == self._name
        exported = {
            row.partition: row.lag
            for row in status.partitions
            if row.lag is not None and (row.partition in owned or (speaks and row.owner is None))
        }
        self._metrics.lag(exported, {number: self._age(number, now) for number in exported})
        self._metrics.unowned(len(unowned) if speaks else 0)
        self._act(owned, now)

    def _note(self, row: PartitionStatus, is_stable: bool, now: float) -> None:
        written, end = max(row.written or 0, row.begin or 0), row.end or 0
        seen = self._progress.get(row.partition)
        if seen is None or written != seen.written:
            kept = () if seen is None else ((when, e) for when, e in seen.ends if e > written)
            unowned_since = None if seen is None else seen.unowned_since
            seen = _Progress(written, now, end, end, unowned_since)
            seen.ends.extend(kept)
            self._progress[row.partition] = seen
        if end > written and (not seen.ends or seen.ends[-1][1] != end):
            seen.ends.append((now, end))
        if row.owner is not None or not is_stable:
            seen.unowned_since = None
        elif seen.unowned_since is None:
            seen.unowned_since = now
        if end <= written:
            seen.since, seen.end = now, end
        seen.latest = end

    def _age(self, partition: int, now: float) -> float:
        ends = self._progress[partition].ends
        return now - ends[0][0] if ends else 0.0

    def _act(self, owned: frozenset[int], now: float) -> None:
        times = self._times
        unowned = [
            n for n, seen in self._progress.items()
            if seen.unowned_since is not None and now - seen.unowned_since >= times.unowned
        ]  # fmt: skip
        unread = [
            n for n, seen in self._progress.items()
            if n in owned and now - seen.since >= times.unread and seen.latest > seen.end
        ]  # fmt: skip
        if not unowned and not unread:
            if now >= self._not_before:
                self._backoff = 1
            return
        if now < self._not_before:
            return
        self._not_before = now + times.unowned * self._backoff
        self._backoff = min(_MOST_BACKOFF, self._backoff * 2)
        log.warning("partitions_unread without_owner=%s not_read=%s action=join", unowned, unread)
        self._metrics.rejoined()
        if unread:
            self._unread.set()
        self._rejoin.set()
