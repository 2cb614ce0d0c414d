"""What the consumer counts, for Prometheus."""

import time
import warnings
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime

import pyarrow as pa
import pyarrow.compute as pc
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from consumers.sinks.event_log import Written
from qanchor.names import EVENT_TIME

_SECONDS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
_LATENCIES = (0.1, 0.25, 0.5, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0, 100.0, 1000.0)
_SIZES = (10, 100, 1_000, 10_000, 50_000, 100_000, 200_000, 500_000)


class ConsumerMetrics:
    """Counters, gauges and histograms of one consumer, in a separate registry; a subclass observes writes."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._events = self._counter("events", "Events written to the event log")
        self._refused = self._counter("dead_letters", "Messages refused", "reason")
        self._repeated = self._counter("repeated_events", "Events left out because the log has them already")
        self._late = self._counter("late_events", "Events of an earlier day than the day they came on (UTC)")
        self._fenced = self._counter("fenced_writes", "Writes refused because another consumer was first")
        self._retries = self._counter("poll_retries", "Polls that failed and were tried again")
        self._paused = self._counter("pauses", "Times that polling was held up because writing is slower")
        self._rebalances = self._gauge("rebalances", "Assignments received since the start")
        self._owned = self._gauge("partitions", "Partitions owned")
        self._buffered = self._gauge("buffered_messages", "Messages read that no write has taken yet")
        self._last_write = self._gauge("last_write_timestamp_seconds", "When the ledger last committed")
        self._lag = self._gauge("lag", "Messages not yet in the event log", "partition")
        self._lag_seconds = self._gauge(
            "lag_seconds", "How long the oldest of them has been on the topic", "partition"
        )
        self._unowned = self._gauge("unowned_partitions", "Partitions that no consumer of the group owns")
        self._rejoins = self._counter("rejoins", "Joins because a partition had no owner or was not read")
        self._refusal = self._gauge(
            "refused_by_brokers", "1 while the brokers refuse what this consumer does"
        )
        self._skipped = self._counter("skipped_messages", "Messages left out on request, deleted or damaged")
        self._partitions_of_lag: set[str] = set()
        self._online_lag = self._gauge("online_waiting_events", "Events that wait for the next online round")
        self._batch = self._histogram("batch_messages", "Messages of one write", _SIZES)
        self._write_seconds = self._histogram("write_seconds", "Time of one write, commit included", _SECONDS)
        self._commit_seconds = self._histogram("commit_seconds", "Time of its SQL transaction", _SECONDS)
        self._latency = self._histogram(
            "latency_seconds", "From a write's oldest message to its commit", _LATENCIES, "partition"
        )
        self._online_rows = self._counter("online_rows", "Rows written to the online store")
        self._online_failures = self._counter("online_failures", "Rounds without an answer")
        self._online_seconds = self._histogram("online_seconds", "Time of one round of rows", _SECONDS)
        self._online_latency = self._histogram(
            "online_latency_seconds", "From a write's oldest message to its rows", _LATENCIES, "partition"
        )
        self.registry.register(_CommitAge(self.last_commit))

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"qanchor_consumer_{name}", text, labels, registry=self.registry)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(f"qanchor_consumer_{name}", text, labels, registry=self.registry)

    def _histogram(self, name: str, text: str, buckets: Iterable[float], *labels: str) -> Histogram:
        return Histogram(
            f"qanchor_consumer_{name}", text, labels, buckets=tuple(buckets), registry=self.registry
        )

    def last_commit(self) -> float:
        """When the ledger was moved last, seconds since the epoch; 0 before the first time."""
        return float(self.registry.get_sample_value("qanchor_consumer_last_write_timestamp_seconds") or 0.0)

    def wrote(self, written: Written, messages: int, seconds: float) -> None:
        """Count one committed write.

        Args:
            written: the write.
            messages: how many it was made of.
            seconds: how long it took, its commit included.
        """
        now = time.time()
        self._events.inc(written.events)
        self._repeated.inc(written.repeated)
        self._late.inc(_count_late(written.table, now))
        for reason, count in written.rejected.items():
            self._refused.labels(reason).inc(count)
        self._batch.observe(messages)
        self._write_seconds.observe(seconds)
        self._commit_seconds.observe(written.commit_seconds)
        self._last_write.set(now)
        _observe_ages(self._latency, written.oldest_ms, now)

    def published(self, rows: int, seconds: float) -> None:
        """Count one round of online rows."""
        self._online_rows.inc(rows)
        self._online_seconds.observe(seconds)

    def shown(self, written: Written) -> None:
        """Note that a write's users are up to date in the online store."""
        _observe_ages(self._online_latency, written.oldest_ms, time.time())

    def online_failed(self) -> None:
        """Count one round that the online store did not answer."""
        self._online_failures.inc()

    def online_waiting(self, events: int) -> None:
        """Note how many events the online store does not know yet."""
        self._online_lag.set(events)

    def fenced(self) -> None:
        """Count one refused write."""
        self._fenced.inc()

    def retried(self) -> None:
        """Count one poll that failed."""
        self._retries.inc()

    def paused(self) -> None:
        """Count one time that polling was held up."""
        self._paused.inc()

    def assigned(self, rebalances: int, owned: int, buffered: int) -> None:
        """Note the group's state and what waits to be written."""
        self._rebalances.set(rebalances)
        self._owned.set(owned)
        self._buffered.set(buffered)

    def lag(self, lag: Mapping[int, int], seconds: Mapping[int, float] | None = None) -> None:
        """Note what of each partition is not yet in the event log; other partitions' series end.

        Args:
            lag: messages by partition.
            seconds: time that the oldest of them has been on the topic, by partition.
        """
        for partition, messages in lag.items():
            self._lag.labels(str(partition)).set(messages)
            self._lag_seconds.labels(str(partition)).set((seconds or {}).get(partition, 0.0))
        labels = {str(partition) for partition in lag}
        for gone in self._partitions_of_lag - labels:
            _end_series(self._lag, gone)
            _end_series(self._lag_seconds, gone)
        self._partitions_of_lag = labels

    def unowned(self, partitions: int) -> None:
        """Note how many partitions no consumer of the group owns."""
        self._unowned.set(partitions)

    def rejoined(self) -> None:
        """Count one join that a partition without owner or progress has caused."""
        self._rejoins.inc()

    def refused(self, is_refused: bool) -> None:
        """Note whether the brokers refuse what this consumer does."""
        self._refusal.set(int(is_refused))

    def skipped(self, messages: int) -> None:
        """Count messages left out on request."""
        self._skipped.inc(messages)


def _count_late(table: pa.Table | None, now: float) -> int:
    """Events of a day before the current one."""
    if table is None or not table.num_rows:
        return 0
    midnight = datetime.fromtimestamp(now, UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    return pc.sum(pc.less(table[EVENT_TIME], pa.scalar(midnight))).as_py() or 0


def _observe_ages(histogram: Histogram, oldest_ms: Mapping[int, int], now: float) -> None:
    for partition, moment in oldest_ms.items():
        histogram.labels(str(partition)).observe(max(0.0, now - moment / 1000))


class _CommitAge(Collector):  # type: ignore[misc]  # the library has no types
    """Seconds since the last commit, worked out when somebody asks."""

    def __init__(self, last_commit: Callable[[], float]) -> None:
        self._last_commit = last_commit

    def collect(self) -> Iterable[GaugeMetricFamily]:
        """The age, once there was a commit."""
        last = self._last_commit()
        if last:
            text = "How long ago the ledger last committed"
            yield GaugeMetricFamily(
                "qanchor_consumer_last_write_age_seconds", text, value=max(0.0, time.time() - last)
            )


def _end_series(gauge: Gauge, label: str) -> None:
    # Feast sets PROMETHEUS_MULTIPROC_DIR for its server: with it the client warns, and removes all the same.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        gauge.remove(label)
