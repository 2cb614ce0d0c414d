"""The sink that keeps each user's activity in the online store as fresh as the event log.

It follows the ledger: rows are published only for events that are committed, and how far that has come is
in the ledger, too. A consumer that is killed between the two leaves its offsets behind the log's;
the partition's next owner publishes its users again from the log.
"""

import logging
import threading
import time
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final, Protocol

import pyarrow as pa
from sqlalchemy import Engine

from consumers.metrics import ConsumerMetrics
from consumers.sinks.event_log import Written
from qanchor import names
from qanchor.errors import StoreUnavailable
from qanchor.events.rolling import RollingActivity
from qanchor.registry.positions import Position, last_load, move_online, positions
from qanchor.storage.event_log import EventLog, recover
from qanchor.times import TIMESTAMP, now

log = logging.getLogger(__name__)

_USERS_PER_WRITE: Final = 2_000  # about a second: a stop waits for one write at most
_LOOK_EVERY_SECONDS: Final = 5.0
_LONGEST_BACKOFF_SECONDS: Final = 10.0


class View(Protocol):
    """The online view; `qanchor.storage.online.OnlineView` is it."""

    def newest(self, users: Sequence[str]) -> dict[str, int]:
        """By user the moment of the row that is served, microseconds since the epoch."""
        ...

    def write(self, table: pa.Table) -> None:
        """Write rows; one that is older than what is served changes nothing."""
        ...

    def close(self) -> None:
        """Give the store's connections back."""
        ...


@dataclass(frozen=True)
class OnlineSink:
    """Publishes what the ledger has committed.

    Args:
        engine: the registry with the ledger.
        log: event log, for reading only.
        rolling: the users' activity.
        view: where it is written.
        group: consumer group.
        topic: topic.
    """

    engine: Engine
    log: EventLog
    rolling: RollingActivity
    view: View
    group: str
    topic: str

    def publish(
        self, written: Sequence[Written], owned: Collection[int], memory: "Memory", stop: threading.Event
    ) -> int:
        """Bring the users of new events up to date, and those whose turn another consumer missed.

        Args:
            written: writes that the ledger has committed since the last call, in their order.
            owned: partitions of this consumer.
            memory: what this consumer has published itself.
            stop: ends the work early; what is missing is made up for later.

        Returns:
            Number of rows written.

        Raises:
            StoreUnavailable: database or online store; nothing is lost, the next call makes up for it.
            FeaturesInvalid: the online store refuses an event time that the event log accepts.
        """
        now = positions(self.engine, self.group, self.topic)
        loads = last_load(self.engine)
        here = {p: now[p] for p in {*owned, *(p for batch in written for p in batch.ranges)} if p in now}
        if loads == memory.loads and memory.continues(written, here):
            users = {user for batch in written for user in self.rolling.add(batch.table)}
            ends = {p: end for batch in written for p, (_, end) in batch.ranges.items()}
        else:
            users = self._behind(here)
            ends = {p: position.next_offset for p, position in here.items()}
        rows = self._write(sorted(users), stop)
        if stop.is_set():
            return rows
        moves = {p: (here[p].online_offset or 0, end) for p, end in ends.items()}
        if move_online(self.engine, self.group, self.topic, moves):
            memory.loads = loads
            memory.ends.update(ends)
        else:
            memory.forget()
        return rows

    def _behind(self, here: Mapping[int, Position]) -> set[str]:
        """The users with events that the log has and the online store may lack."""
        # What a killed consumer has committed may still lie in staging. The positions were read before this.
        recover(self.engine, self.log)
        self.rolling.forget()
        ranges = [
            f"(_partition = {p} AND _offset >= {position.online_offset or 0})"
            for p, position in here.items()
            if (position.online_offset or 0) < position.next_offset
        ]
        if not ranges:
            return set()
        with self.log.connect() as connection:
            users = connection.execute(
                f"SELECT DISTINCT {names.USER_ID} FROM events WHERE {' OR '.join(ranges)}"
            ).fetchall()
        log.info("online_catching_up partitions=%d users=%d", len(ranges), len(users))
        return {row[0] for row in users}

    def _write(self, users: Sequence[str], stop: threading.Event) -> int:
        rows = 0
        for start in range(0, len(users), _USERS_PER_WRITE):
            if stop.is_set():
                break
            some = users[start : start + _USERS_PER_WRITE]
            # Of two rows with one moment the store keeps the later made. It has to be taken before the events
            # are looked at: a consumer that is held up here must not overwrite what its successor knew.
            made = now()
            table = self.rolling.features(some, self.view.newest(some))
            column = table.column_names.index(names.CREATED)
            created = pa.array([made] * len(table), TIMESTAMP)
            self.view.write(table.set_column(column, names.CREATED, created))
            rows += len(table)
        return rows


class Memory:
    """What one consumer has published itself, so that it notices when another one came between."""

    def __init__(self) -> None:
        self.ends: dict[int, int] = {}
        self.loads = -1

    def forget(self) -> None:
        """Look everything up again."""
        self.ends.clear()
        self.loads = -1

    def continues(self, written: Sequence[Written], here: Mapping[int, Position]) -> bool:
        """Whether the writes follow, without a gap, what this consumer itself has published last."""
        ends = {p: position.online_offset for p, position in here.items()}
        if any(self.ends.get(p) != end for p, end in ends.items()):
            return False
        for batch in written:
            if any(ends.get(p) != start for p, (start, _) in batch.ranges.items()):
                return False
            ends |= {p: end for p, (_, end) in batch.ranges.items()}
        # Later than the writes handed over the ledger may well be: their turn comes with the next call.
        return bool(written) or all(end == here[p].next_offset for p, end in ends.items())


class OnlineFeed:
    """Hands committed writes to the sink in a separate thread; the event log never waits for it.

    What does not fit into the memory allowed is dropped here and read from the log again.

    Args:
        sink: publishes.
        metrics: counts.
        most_events: rows that wait at most.
    """

    def __init__(self, sink: OnlineSink, metrics: ConsumerMetrics, most_events: int) -> None:
        self._sink, self._metrics, self._most = sink, metrics, most_events
        self._memory = Memory()
        self._thread = ThreadPoolExecutor(1, "online")
        self._running: Future[int] | None = None
        self._waiting: list[Written] = []
        self._taken: list[Written] = []
        self._owned: frozenset[int] = frozenset()
        self._stop = threading.Event()
        self._due = self._backoff = 0.0

    def offer(self, written: Written) -> None:
        """Publish a committed write soon."""
        self._waiting.append(written)
        waiting = sum(batch.events for batch in self._waiting)
        self._metrics.online_waiting(waiting)
        if waiting > self._most:
            log.info("online_dropped_waiting events=%d", self._most)
            self._waiting = []
            self._memory.forget()

    def step(self, owned: frozenset[int], idle: bool) -> None:
        """Take the result of what was under way, begin what is due. Never blocks.

        Args:
            owned: partitions of this consumer.
            idle: no write is under way, so whatever the ledger has and was not offered is another's.

        Raises:
            QAnchorError: what no second try mends.
        """
        if self._running is not None:
            if not self._running.done():
                return
            self._collect(self._running)
        now = time.monotonic()
        news = bool(self._waiting) or owned != self._owned
        if (now >= self._due and idle) or (news and not self._backoff):
            self._owned, self._due = owned, now + _LOOK_EVERY_SECONDS
            self._taken, self._waiting = self._waiting, []
            self._metrics.online_waiting(0)
            self._running = self._thread.submit(self._publish, self._taken)

    def _publish(self, written: list[Written]) -> int:
        began = time.monotonic()
        rows = self._sink.publish(written, self._owned, self._memory, self._stop)
        if rows:
            self._metrics.published(rows, time.monotonic() - began)
        return rows

    def _collect(self, running: "Future[int]") -> None:
        self._running = None
        try:
            running.result()
        except StoreUnavailable as error:
            # The log goes on; the offsets tell what is due.
            self._memory.forget()
            self._backoff = min(_LONGEST_BACKOFF_SECONDS, self._backoff * 2 or 0.5)
            self._due = time.monotonic() + self._backoff
            self._metrics.online_failed()
            log.warning("online_failed error=%r retry_seconds=%.1f", str(error), self._backoff)
            return
        self._backoff = 0.0
        if not self._stop.is_set():
            self._note_shown(self._taken)

    def _note_shown(self, written: Sequence[Written]) -> None:
        for batch in written:
            self._metrics.shown(batch)

    def finish(self) -> None:
        """Publish what waits, and all else that is due.

        Raises:
            QAnchorError: it cannot be published.
        """
        if self._running is not None:
            self._collect(self._running)
        self._publish(self._waiting)
        self._note_shown(self._waiting)
        self._waiting = []

    def close(self) -> None:
        """End soon; what is not published is left to the next run, which finds it by its offsets."""
        self._stop.set()
        self._thread.shutdown()
        self._sink.view.close()
