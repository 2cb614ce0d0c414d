import socket
import time
from collections import Counter

import pytest

from consumers.metrics import ConsumerMetrics
from consumers.sinks.event_log import Written
from qanchor.errors import StoreUnavailable


def test_a_write_is_counted_with_its_dead_letters_and_latency() -> None:
    metrics = ConsumerMetrics()
    newest = int((time.time() - 5) * 1000)
    metrics.wrote(Written({0: 10}, 8, Counter(bad_time=2), newest), 0.02)
    metrics.lag({0: 3})
    value = metrics.registry.get_sample_value
    assert value("qanchor_consumer_events_total") == 8
    assert value("qanchor_consumer_dead_letters_total", {"reason": "bad_time"}) == 2
    assert value("qanchor_consumer_lag", {"partition": "0"}) == 3
    assert 4 < (value("qanchor_consumer_latency_seconds_sum") or 0) < 60


def test_a_taken_port_is_one_clear_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(StoreUnavailable, match=f"port {port}.*--metrics-port"):
            ConsumerMetrics().serve(port)
