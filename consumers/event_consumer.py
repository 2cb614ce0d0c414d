"""The consumer's loop: poll, buffer, write in a separate thread, go on polling meanwhile.

One write is in flight at most. While it runs, the next batch is read; when that one is full too, the
partitions are paused but polled on: that keeps the membership of the group and is all the back-pressure.
"""

import logging
import threading
import time
from collections.abc import Callable, Collection
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from dataclasses import dataclass
from typing import Any, Final

from kafka import TopicPartition
from kafka.errors import (
    CommitFailedError,
    CorruptRecordError,
    IllegalStateError,
    KafkaError,
    OffsetOutOfRangeError,
)
from kafka.structs import OffsetAndMetadata

from consumers.assignment import Assignment, ReadyBatch
from consumers.damage import DamageControl
from consumers.health import Health
from consumers.kafka_errors import Use, refusal_of
from consumers.metrics import ConsumerMetrics
from consumers.patience import Patience
from consumers.sinks.event_log import EventLogSink, Written
from consumers.sinks.online import OnlineFeed
from consumers.stop_rule import EndOfTopic, StopRule
from consumers.summary import ConsumeSummary
from consumers.watch import GroupWatch
from qanchor.errors import (
    NotReady,
    OffsetsFenced,
    QAnchorError,
    StoreUnavailable,
    TopicRecreated,
)
from qanchor.progress import Progress
from qanchor.settings import KafkaSettings

log = logging.getLogger(__name__)

_POLL_MS: Final = 200
# Longer waits would keep a consumer away from brokers that are back.
_LONGEST_BACKOFF_SECONDS: Final = 0.5
_METADATA_MS: Final = 2_000
_LAST_WRITE_SECONDS: Final = 1.0  # of the two that a stop may take
_LAST_LAG_MS: Final = 300
_LAST_COMMIT_MS: Final = 500
_FIRST_RATE: Final = 20_000.0  # records per second; small writes look slower than they are


@dataclass(frozen=True)
class Skipping:
    """What the user has said may be left out.

    Args:
        deleted: messages that the brokers have deleted unread.
        offsets: partitions and offsets of messages that cannot be read.
    """

    deleted: bool = False
    offsets: Collection[tuple[int, int]] = ()


@dataclass(frozen=True)
class ConsumerParts:
    """What the consumer is made of, built at the entry point.

    Args:
        client: a GroupMember without a subscription.
        sink: writes batches.
        assignment: rebalance listener and buffer.
        metrics: counts.
        progress: counts for people.
        health: state of the loop for /healthz and /readyz.
        online: feed of committed writes to the online store.
        watch: watch over the whole group.
    """

    client: Any
    sink: EventLogSink
    assignment: Assignment
    metrics: ConsumerMetrics
    progress: Progress
    health: Health | None = None
    online: OnlineFeed | None = None
    watch: GroupWatch | None = None


class EventConsumer:
    """Reads one topic into the event log until it is stopped.

    Args:
        parts: what it is made of.
        settings: topic, batch and flush sizes.
        rule: when it ends without a signal.
        skipping: what may be left out.
    """

    def __init__(
        self, parts: ConsumerParts, settings: KafkaSettings, rule: StopRule, skipping: Skipping | None = None
    ) -> None:
        self._client, self._sink, self._assignment = parts.client, parts.sink, parts.assignment
        self._metrics, self._progress = parts.metrics, parts.progress
        self._health, self._online, self._watch = parts.health, parts.online, parts.watch
        self._settings, self._rule, self._skipping = settings, rule, skipping or Skipping()
        self._damage = DamageControl(self._skipping.offsets)
        self._summary = ConsumeSummary()
        self._writer = ThreadPoolExecutor(1, "write")
        self._writing: Future[Written] | None = None
        self._written: dict[int, int] = {}
        self._end = EndOfTopic(parts.client, parts.assignment, settings.topic, settings.session_seconds)
        self._buffered = self._polled = 0
        self._backoff = 0.0
        self._skipped: dict[int, int] = {}
        self._looked = 0.0
        self._hurry = False  # a signal has come: nothing may wait for a broker
        self._held = False  # the partitions are paused, because a write is in flight and the next one is full
        self._rate = _FIRST_RATE
        self._first: float | None = None
        self._patience = Patience(rule, parts.metrics)
        self._failure: QAnchorError | None = None  # what ends the run once all that was read is written
        self._last = self._flushed = time.monotonic()

    def run(self, stop: threading.Event) -> ConsumeSummary:
        """Consume until `stop` is set or the rule says so; what was read by then is written.

        Raises:
            NotReady: events were deleted by the brokers before they were read, or a message is damaged.
            TopicRecreated: the topic was deleted and created again.
            BrokerRefusal: the brokers refuse what trying again does not cure; a service goes on trying where
                an administrator may grant it.
            EventsInvalid: too many messages are refused.
            StoreUnavailable: disk, database or dead-letter topic; start again, nothing is lost.
        """
        self._client.subscribe([self._settings.topic], listener=self._assignment)
        self._progress.start("consuming")
        try:
            while not stop.is_set() and self._failure is None and not self._is_done():
                self._take(self._poll(stop))
                self._check_topic()
                self._collect(wait=False)
                self._flush_if_due()
                self._follow_online()
                self._follow_watch()
            self._drain(hurry=stop.is_set())
        finally:
            self._writer.shutdown()
            if self._online is not None:
                self._online.close()
        self._tell_brokers()
        if self._failure is not None:
            raise self._failure
        self._measure_lag(_LAST_LAG_MS)
        return self._summary

    def _poll(self, stop: threading.Event) -> dict[Any, list[Any]]:
        try:
            polled: dict[Any, list[Any]] = self._client.poll(
                0 if self._held else _POLL_MS, max_records=self._settings.batch_events
            )
        except OffsetOutOfRangeError as error:
            self._pass_deleted(error)
            return {}
        except (KafkaError, OSError) as error:
            if isinstance(error, CorruptRecordError) and self._client.damaged is not None:
                self._pass_damaged(error)
                return {}
            # A broker that dies in the middle of a join passes, or the log says why.
            self._backoff = min(_LONGEST_BACKOFF_SECONDS, self._backoff * 2 or 0.1)
            refusal = refusal_of(error, self._settings, Use("READ", self._settings.topic))
            if refusal is None:
                log.warning("poll_failed error=%r retry_seconds=%.1f", error, self._backoff)
            self._metrics.retried()
            self._patience.note(refusal)
            stop.wait(self._backoff)
            return {}
        self._backoff = 0.0
        problem = self._client.topic_problem(self._settings.topic)
        self._patience.note(refusal_of(problem, self._settings, Use()) if problem is not None else None)
        if self._held and self._writing is not None:
            # Nothing can come until this write is done: what is waited for is that, and not messages.
            wait_for([self._writing], _POLL_MS / 1000)
        return polled

    def _pass_damaged(self, error: CorruptRecordError) -> None:
        self._take({})  # a partition that is new is sought now: that must not come after this
        partition = self._client.damaged
        position = self._client.read_to(self._settings.topic).get(partition.partition)
        if position is None:
            return
        try:
            passed = self._damage.handle(error, partition, position)
        except StoreUnavailable as failure:
            self._failure = failure  # once all that was read before is written
            return
        if passed is not None:
            self._assignment.pass_batch(passed)
            self._summary.skipped += passed.count
            self._metrics.skipped(passed.count)

    def _pass_deleted(self, error: OffsetOutOfRangeError) -> None:
        """Go on at the oldest message, if that is what the user wants."""
        self._take({})  # as above
        at = {p.partition: offset for p, offset in error.args[0].items()}
        assigned = [p for p in self._client.assignment() if p.partition in at]
        begins = {p.partition: begin for p, begin in self._client.beginning_offsets(assigned).items()}
        beyond = {p: offset for p, offset in at.items() if offset > begins.get(p, offset)}
        if beyond:
            raise NotReady(
                f"the ledger is ahead of the topic {self._settings.topic!r} in partitions {sorted(beyond)}:"
                " it was cut off or created again",
                "`qanchor-cli consume --recreated` reads it from its beginning.",
            ) from error
        if not self._skipping.deleted:
            raise NotReady(
                f"the brokers have deleted events that were never read: {error}",
                "Raise the topic's retention; `qanchor-cli consume --skip-deleted` goes on without them.",
            ) from error
        for partition, skipped in self._assignment.skip_deleted(begins).items():
            log.warning("skipped_deleted partition=%d messages=%d", partition, skipped)
            self._skipped[partition] = self._skipped.get(partition, 0) + skipped
            self._summary.skipped += skipped
            self._metrics.skipped(skipped)

    def _check_topic(self) -> None:
        """End if the topic is another one than before: its offsets are not those of the ledger."""
        current, notes = self._client.topic_id(self._settings.topic), self._sink.notes
        if current and notes.topic_id and current != notes.topic_id:
            raise TopicRecreated(self._settings.topic)
        notes.topic_id = current or notes.topic_id

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
            self._health.beat(owned, self._patience.problem)

    def _flush_if_due(self) -> None:
        full = self._buffered >= self._settings.flush_events
        waited = time.monotonic() - self._flushed >= self._settings.flush_seconds
        if self._rule.at_end and not self._polled:
            waited = True  # nothing more has come: no reason to keep the last events back
        if self._held and not full:
            self._release()  # a refused write or a revoked partition took its records out of the buffer
        if not (full or waited) or not (self._buffered or self._assignment.has_gap):
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
        if batch.ranges:
            self._sink.notes.skipped, self._skipped = self._skipped, {}
            self._writing = self._writer.submit(self._write, batch)
        if self._held:
            self._release()

    def _release(self) -> None:
        self._client.resume(*self._client.paused())
        self._held = False

    def _write(self, batch: ReadyBatch) -> Written:
        if not self._hurry:
            self._look_at_topic()
        began = time.monotonic()
        written = self._sink.write(batch.records, batch.ranges)
        seconds = time.monotonic() - began
        self._rate = max(_FIRST_RATE, len(batch.records) / max(seconds, 1e-3))
        self._metrics.wrote(written, len(batch.records), seconds)
        return written

    def _look_at_topic(self) -> None:
        """Before each write: messages are fetched by the topic's name, and it may be another one by now."""
        try:
            self._client.refresh_metadata(_METADATA_MS)
        except (KafkaError, OSError):
            return  # the brokers are away, and so is whatever they could have read from another topic
        self._check_topic()

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
        summary.repeated += written.repeated
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
        began, self._hurry = time.monotonic(), hurry
        self._collect(wait=True)
        self._take({})
        pending = self._buffered or self._assignment.has_gap
        needed = time.monotonic() - began + self._buffered / self._rate
        if self._buffered and hurry and needed > _LAST_WRITE_SECONDS:
            log.info("left_on_topic records=%d", self._buffered)  # the next run reads them again
        elif pending:
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

    def _follow_watch(self) -> None:
        if self._watch is None:
            return
        if self._assignment.changed > self._looked:
            self._looked = self._assignment.changed
            self._watch.look_soon()
        if self._watch.take_unread():
            self._assignment.seek_all()
            self._buffered = 0
        if self._watch.take_rejoin():
            self._client.rejoin()

    def _measure_lag(self, timeout_ms: int) -> None:
        try:
            ends = self._client.end_offsets(list(self._client.assignment()), timeout_ms=timeout_ms)
        except (KafkaError, IllegalStateError):
            return
        begins = self._assignment.next_ranges()
        self._summary.lag = {
            p.partition: max(0, end - begins[p.partition]) for p, end in ends.items() if p.partition in begins
        }
