import json
import re
import socket
import time
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from sqlalchemy import Engine

from consumers.health import Health
from consumers.metrics import ConsumerMetrics
from consumers.sinks.event_log import Written
from qanchor.errors import StoreUnavailable
from qanchor.metrics_server import MetricsServer
from tests.unit.http_pages import get

_DASHBOARD = Path(__file__).parents[3] / "docs" / "grafana" / "consumers.json"


def _written(**changes: Any) -> Written:
    moments = [datetime.now(UTC) - timedelta(days=days) for days in (0, 3)]
    table = pa.table({"event_time": pa.array(moments, pa.timestamp("us", "UTC"))})
    oldest = {0: int((time.time() - 5) * 1000)}
    return Written({0: (0, 10)}, 8, Counter(bad_time=2), oldest, 1, table, 0.01, **changes)


def test_a_write_is_counted_with_all_that_it_left_out() -> None:
    metrics = ConsumerMetrics()
    metrics.wrote(_written(), 11, 0.02)
    metrics.lag({0: 3})
    value = metrics.registry.get_sample_value
    assert value("qanchor_consumer_events_total") == 8
    assert value("qanchor_consumer_dead_letters_total", {"reason": "bad_time"}) == 2
    assert value("qanchor_consumer_repeated_events_total") == 1
    assert value("qanchor_consumer_late_events_total") == 1
    assert value("qanchor_consumer_lag", {"partition": "0"}) == 3
    assert value("qanchor_consumer_batch_messages_sum") == 11
    assert value("qanchor_consumer_commit_seconds_count") == 1
    assert 4 < (value("qanchor_consumer_latency_seconds_sum", {"partition": "0"}) or 0) < 60


def test_the_age_of_the_last_commit_grows_by_itself() -> None:
    metrics = ConsumerMetrics()
    name = "qanchor_consumer_last_write_age_seconds"
    assert metrics.registry.get_sample_value(name) is None
    metrics.wrote(_written(), 10, 0.02)
    first = metrics.registry.get_sample_value(name)
    time.sleep(0.02)
    assert first is not None
    assert (metrics.registry.get_sample_value(name) or 0) > first


@pytest.fixture
def health(engine: Engine) -> Health:
    return Health(engine, 0.2)


def _serve(port: int, health: Health) -> MetricsServer:
    return MetricsServer(port, ConsumerMetrics().registry, health.why_not_alive, health.why_not_ready)


@pytest.fixture
def server(health: Health) -> Iterator[MetricsServer]:
    server = _serve(0, health)
    yield server
    server.close()


def test_metrics_are_served_on_loopback(server: MetricsServer) -> None:
    code, text = get(server, "/metrics")
    assert code == 200
    assert "qanchor_consumer_events_total" in text
    assert server.host == "127.0.0.1"
    assert get(server, "/elsewhere")[0] == 404


def test_a_loop_that_hangs_is_not_healthy(server: MetricsServer, health: Health) -> None:
    health.beat(1)
    assert get(server, "/healthz") == (200, "ok\n")
    time.sleep(0.3)
    code, text = get(server, "/healthz")
    assert (code, text.startswith("the loop has not turned")) == (503, True)


def test_ready_means_partitions_and_a_ledger(server: MetricsServer, health: Health, engine: Engine) -> None:
    health.beat(0)
    assert get(server, "/readyz") == (503, "no partition is assigned\n")
    health.beat(2)
    assert get(server, "/readyz") == (200, "ok\n")
    with engine.begin() as connection:
        connection.exec_driver_sql("DROP TABLE ledger_offsets")
    assert get(server, "/readyz")[0] == 503


def test_a_taken_port_is_one_clear_error(health: Health) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(StoreUnavailable, match=f"port {port}.*--metrics-port"):
            _serve(port, health)


def _queries(panels: list[dict[str, Any]]) -> Iterator[str]:
    for panel in panels:
        yield from (target["expr"] for target in panel.get("targets", ()))
        yield from _queries(panel.get("panels", []))


def test_every_query_of_the_dashboard_names_a_metric_that_exists() -> None:
    metrics = ConsumerMetrics()
    metrics.wrote(_written(), 10, 0.02)
    metrics.lag({0: 1})
    endings = {"histogram": ("_bucket", "_sum", "_count"), "counter": ("_total",), "gauge": ("",)}
    families = metrics.registry.collect()
    known = {family.name + ending for family in families for ending in endings[family.type]}
    queries = list(_queries(json.loads(_DASHBOARD.read_text(encoding="utf-8"))["panels"]))
    named = [re.findall(r"qanchor_\w+", query) for query in queries]
    assert len(queries) > 10
    assert all(named)
    assert {name for names in named for name in names} - known == set()
