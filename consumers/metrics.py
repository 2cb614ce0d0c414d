"""What the consumer counts, for Prometheus."""

import time
from collections.abc import Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server

from consumers.sinks.event_log import Written
from qanchor.errors import StoreUnavailable

_SECONDS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)


class ConsumerMetrics:
    """Counters and gauges of one consumer, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._events = self._counter("events", "Events written to the event log")
        self._refused = Counter(
            "qanchor_consumer_dead_letters", "Messages refused", ["reason"], registry=self.registry
        )
        self._fenced = self._counter("fenced_writes", "Writes refused because another consumer was first")
        self._retries = self._counter("poll_retries", "Polls that failed and were tried again")
        self._rebalances = self._gauge("rebalances", "Assignments received since the start")
        self._owned = self._gauge("partitions", "Partitions owned")
        self._last_write = self._gauge("last_write_timestamp_seconds", "When the ledger last committed")
        self._lag = Gauge(
            "qanchor_consumer_lag", "Messages not yet in the event log", ["partition"], registry=self.registry
        )
        self._write_seconds = Histogram(
            "qanchor_consumer_write_seconds", "Time of one write", buckets=_SECONDS, registry=self.registry
        )
        self._latency = Histogram(
            "qanchor_consumer_latency_seconds",
            "From a batch's newest message to its commit",
            buckets=(*_SECONDS, 100.0, 1000.0),
            registry=self.registry,
        )

        self._online_rows = self._counter("online_rows", "Rows written to the online store")
        self._online_failures = self._counter(
            "online_failures", "Rounds that the online store left unanswered"
        )
        self._online_seconds = Histogram(
            "qanchor_consumer_online_seconds",
            "Time of one round of the online store",
            buckets=_SECONDS,
            registry=self.registry,
        )
        self._online_latency = Histogram(
            "qanchor_consumer_online_latency_seconds",
            "From a batch's newest message to its users' online rows",
            buckets=(*_SECONDS, 100.0, 1000.0),
            registry=self.registry,
        )

    def _counter(self, name: str, text: str) -> Counter:
        return Counter(f"qanchor_consumer_{name}", text, registry=self.registry)

    def _gauge(self, name: str, text: str) -> Gauge:
        return Gauge(f"qanchor_consumer_{name}", text, registry=self.registry)

    def wrote(self, written: Written, seconds: float) -> None:
        """Count one committed write."""
        now = time.time()
        self._events.inc(written.events)
        for reason, count in written.rejected.items():
            self._refused.labels(reason).inc(count)
        self._write_seconds.observe(seconds)
        self._last_write.set(now)
        if written.newest_ms:
            self._latency.observe(max(0.0, now - written.newest_ms / 1000))

    def published(self, rows: int, seconds: float) -> None:
        """Count one round of online rows."""
        self._online_rows.inc(rows)
        self._online_seconds.observe(seconds)

    def shown(self, written: Written) -> None:
        """Note that a write's users are up to date in the online store."""
        if written.newest_ms:
            self._online_latency.observe(max(0.0, time.time() - written.newest_ms / 1000))

    def online_failed(self) -> None:
        """Count one round that the online store did not answer."""
        self._online_failures.inc()

    def fenced(self) -> None:
        """Count one refused write."""
        self._fenced.inc()

    def retried(self) -> None:
        """Count one poll that failed."""
        self._retries.inc()

    def assigned(self, rebalances: int, owned: int) -> None:
        """Note the group's state."""
        self._rebalances.set(rebalances)
        self._owned.set(owned)

    def lag(self, lag: Mapping[int, int]) -> None:
        """Note how many messages of each partition are not yet in the event log."""
        for partition, messages in lag.items():
            self._lag.labels(str(partition)).set(messages)

    def serve(self, port: int) -> None:
        """Offer the figures at http://127.0.0.1:PORT/metrics.

        Raises:
            StoreUnavailable: the port is taken; choose another one.
        """
        try:
            start_http_server(port, addr="127.0.0.1", registry=self.registry)
        except OSError as error:
            raise StoreUnavailable(
                f"port {port} cannot be listened on: {error.strerror}", "Choose another --metrics-port."
            ) from error
