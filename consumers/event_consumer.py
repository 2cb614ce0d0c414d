"""The consumer's loop: poll, buffer, write in a separate thread, go on polling meanwhile.

One write is in flight at most. While it runs, the next batch is read; when that one is full too, the
partitions are paused but polled on: that keeps the membership of the group and is all the back-pressure.
"""

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from dataclasses import dataclass, field
from typing import Any, Final

from kafka import TopicPartition
from kafka.errors import (
    CommitFailedError,
    IllegalStateError,
    KafkaError,
    OffsetOutOfRangeError,
)
from kafka.structs import OffsetAndMetadata

from consumers.assignment import Assignment, ReadyBatch
from consumers.health import Health
from consumers.metrics import ConsumerMetrics
from consumers.sinks.event_log import EventLogSink, Written
from consumers.sinks.online import OnlineFeed
from consumers.stop_rule import EndOfTopic, StopRule
from qanchor.errors import NotReady, OffsetsFenced
from qanchor.progress import Progress
from qanchor.settings import KafkaSettings

log = logging.getLogger(__name__)

_POLL_MS: Final = 200
_LONGEST_BACKOFF_SECONDS: Final = 10.0
_LAG_EVERY_SECONDS: Final = 10.0
_LAST_WRITE_SECONDS: Final = 1.0  # of the two that a stop may take
_LAST_LAG_MS: Final = 300
_LAST_COMMIT_MS: Final = 500
_FIRST_RATE: Final = 20_000.0  # records per second; small writes look slower than they are


@dataclass
class ConsumeSummary:
    """What one run did.

    Args:
        events: rows added to the event log.
        rejected: messages sent to the dead letters, by reason.
        writes: committed writes.
        fenced: writes refused because another consumer was first.
        seconds: from the first message to the last commit.
        lag: by partition the messages left, as far as the brokers say.
    """

    events: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    writes: int = 0
    fenced: int = 0
    seconds: float = 0.0
    lag: dict[int, int] = field(default_factory=dict)

    @property
    def rate(self) -> float:
        """Messages per second."""
        return (self.events + self.rejected.total()) / max(self.seconds, 1e-9)


@dataclass(frozen=True)
class ConsumerParts:
    """What the consumer is made of, built at the entry point.

    Args:
        client: a KafkaConsumer without a subscription.
        sink: writes batches.
        assignment: rebalance listener and buffer.
        metrics: counts.
        progress: counts for people.
        health: state of the loop for /healthz and /readyz.
        online: feed of committed writes to the online store.
    """

    client: Any
    sink: EventLogSink
    assignment: Assignment
    metrics: ConsumerMetrics
    progress: Progress
    health: Health | None = None
    online: OnlineFeed | None = None


class EventConsumer:
    """Reads one topic into the event log until it is stopped.

    Args:
        parts: what it is made of.
        settings: topic, batch and flush sizes.
        rule: when it ends without a signal.
    """

    def __init__(self, parts: ConsumerParts, settings: KafkaSettings, rule: StopRule) -> None:
        self._client, self._sink, self._assignment = parts.client, parts.sink, parts.assignment
        self._metrics, self._progress = parts.metrics, parts.progress
        self._health, self._online = parts.health, parts.online
        self._settings, self._rule = settings, rule
        self._summary = ConsumeSummary()
        self._writer = ThreadPoolExecutor(1, "write")
        self._writing: Future[Written] | None = None
        self._written: dict[int, int] = {}
        self._end = EndOfTopic(parts.client, parts.assignment, settings.topic, settings.session_seconds)
        self._buffered = self._polled = 0
        self._backoff = 0.0
        self._held = False  # the partitions are paused, because a write is in flight and the next one is full
        self._rate = _FIRST_RATE
        self._first: float | None = None
        self._last = self._flushed = self._measured = time.monotonic()

    def run(self, stop: threading.Event) -> ConsumeSummary:
        """Consume until `stop` is set or the rule says so; what was read by then is written.

        Raises:
            NotReady: events were deleted by the brokers before they were read.
            EventsInvalid: too many messages are refused.
            StoreUnavailable: disk, database or dead-letter topic; start again, nothing is lost.
        """
        self._client.subscribe([self._settings.topic], listener=self._assignment)
        self._progress.start("consuming")
        try:
            while not stop.is_set() and not self._is_done():
                self._take(self._poll(stop))
                self._collect(wait=False)
                self._flush_if_due()
                self._follow_online()
                self._measure_lag_if_due()
            self._drain(hurry=stop.is_set())
        finally:
            self._writer.shutdown()
            if self._online is not None:
                self._online.close()
        self._tell_brokers()
        self._measure_lag(_LAST_LAG_MS)
        return self._summary

    def _poll(self, stop: threading.Event) -> dict[Any, list[Any]]:
        try:
            polled: dict[Any, list[Any]] = self._client.poll(
                0 if self._held else _POLL_MS, max_records=self._settings.batch_events
            )
        except OffsetOutOfRangeError as error:
            raise NotReady(
                f"the brokers have deleted events that were never read: {error}",
                "Raise the topic's retention; `qanchor-cli consume --skip-deleted` goes on without them.",
            ) from error
        except (KafkaError, OSError) as error:
            # A broker that dies in the middle of a join, a torn batch: it passes, or the log says why.
            self._backoff = min(_LONGEST_BACKOFF_SECONDS, self._backoff * 2 or 0.1)
            log.warning("poll_failed error=%r retry_seconds=%.1f", error, self._backoff)
            self._metrics.retried()
            stop.wait(self._backoff)
            return {}
        self._backoff = 0.0
        if self._held and self._writing is not None:
            # Nothing can come until this write is done: what is waited for is that, and not messages.
            wait_for([self._writing], _POLL_MS / 1000)
        return polled

    def _take(self, polled: dict[Any, list[Any]]) -> None:
        before = self._buffered
        self._buffered = self._assignment.take(polled)
        self._polled = len(polled)
        if not before and self._buffered:
            self._flushed = time.monotonic()  # the oldest waiting message is new
        if polled:
            self._last = time.monotonic()
            self._first = self._first or self._last
        owned = len(self._assignment.owned)
        self._metrics.assigned(self._assignment.rebalances, owned, self._buffered)
        if self._health is not None:
            self._health.beat(owned)

    def _flush_if_due(self) -> None:
        full = self._buffered >= self._settings.flush_events
        waited = time.monotonic() - self._flushed >= self._settings.flush_seconds
        if self._rule.at_end and not self._polled:
            waited = True  # nothing more has come: no reason to keep the last events back
        if self._held and not full:
            self._release()  # a refused write or a revoked partition took its records out of the buffer
        if not self._buffered or not (full or waited):
            return
        if self._writing is None:
            self._submit()
        elif full and not self._held:
            self._client.pause(*self._client.assignment())
            self._held = True
            self._metrics.paused()

    def _submit(self) -> None:
        batch = self._assignment.detach()
        self._buffered, self._flushed = 0, time.monotonic()
        if batch.records:
            self._writing = self._writer.submit(self._write, batch)
        if self._held:
            self._release()

    def _release(self) -> None:
        self._client.resume(*self._client.paused())
        self._held = False

    def _write(self, batch: ReadyBatch) -> Written:
        began = time.monotonic()
        written = self._sink.write(batch.records, batch.ranges)
        seconds = time.monotonic() - began
        self._rate = max(_FIRST_RATE, len(batch.records) / max(seconds, 1e-3))
        self._metrics.wrote(written, len(batch.records), seconds)
        return written

    def _collect(self, wait: bool) -> None:
        """Take the result of the write that is in flight, if it is done."""
        if self._writing is None or not (wait or self._writing.done()):
            return
        future, self._writing = self._writing, None
        try:
            written = future.result()
        except OffsetsFenced as error:
            log.warning("write_fenced partition=%d", error.partition)
            self._summary.fenced += 1
            self._metrics.fenced()
            self._assignment.seek_all()
            self._buffered = 0
            return
        self._note(written)

    def _note(self, written: Written) -> None:
        summary = self._summary
        summary.events += written.events
        summary.rejected.update(written.rejected)
        summary.writes += 1
        summary.seconds = time.monotonic() - (self._first or self._last)
        self._written.update(written.ends)
        if self._online is not None:
            self._online.offer(written)
        self._progress.advance(written.events + written.rejected.total(), self._describe())
        self._advise(lambda: self._client.commit_async(self._offsets(written.ends)))

    def _offsets(self, ends: dict[int, int]) -> dict[TopicPartition, OffsetAndMetadata]:
        topic = self._settings.topic
        return {TopicPartition(topic, p): OffsetAndMetadata(end, "", -1) for p, end in ends.items()}

    def _tell_brokers(self) -> None:
        # No later poll sends what asynchronous commits left over: lag tools would show a lag for ever.
        owned = self._assignment.owned
        ends = {p: end for p, end in self._written.items() if p in owned}
        if ends:
            self._advise(lambda: self._client.commit(self._offsets(ends), timeout_ms=_LAST_COMMIT_MS))

    def _follow_online(self) -> None:
        if self._online is not None:
            self._online.step(self._assignment.owned, idle=self._writing is None)

    def _describe(self) -> str:
        refused = self._summary.rejected.total()
        return f"{self._summary.writes:,} writes" + (f", {refused:,} dead letters" if refused else "")

    @staticmethod
    def _advise(commit: Callable[[], Any]) -> None:
        # The ledger is the truth; Kafka's offsets are there for lag tools.
        try:
            commit()
        except (CommitFailedError, IllegalStateError, KafkaError) as error:
            log.info("advisory_commit_failed error=%r", error)

    def _drain(self, hurry: bool) -> None:
        began = time.monotonic()
        self._collect(wait=True)
        self._take({})
        needed = time.monotonic() - began + self._buffered / self._rate
        if self._buffered and hurry and needed > _LAST_WRITE_SECONDS:
            log.info("left_on_topic records=%d", self._buffered)  # the next run reads them again
        elif self._buffered:
            self._submit()
            self._collect(wait=True)
        self._sink.settle()
        if self._online is not None and not hurry:
            self._online.finish()

    def _is_done(self) -> bool:
        if self._buffered or self._writing is not None:
            return False
        idle = time.monotonic() - self._last
        if self._rule.idle_seconds is not None and idle >= self._rule.idle_seconds:
            return True
        return self._rule.at_end and bool(self._assignment.owned) and self._end.is_reached()

    def _measure_lag_if_due(self) -> None:
        if time.monotonic() - self._measured >= _LAG_EVERY_SECONDS:
            self._measured = time.monotonic()
            self._measure_lag(1_000)

    def _measure_lag(self, timeout_ms: int) -> None:
        try:
            ends = self._client.end_offsets(list(self._client.assignment()), timeout_ms=timeout_ms)
        except (KafkaError, IllegalStateError):
            return
        known = {p.partition: end for p, end in ends.items() if p.partition in self._written}
        self._summary.lag = {p: max(0, end - self._written[p]) for p, end in known.items()}
        self._metrics.lag(self._summary.lag)
