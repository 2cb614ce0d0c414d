import socket
from collections.abc import Iterator

import pytest
from prometheus_client import CollectorRegistry, Gauge

from qanchor.errors import StoreUnavailable
from qanchor.metrics_server import MetricsServer
from tests.unit.http_pages import get


@pytest.fixture
def registry() -> CollectorRegistry:
    registry = CollectorRegistry()
    Gauge("answer", "An answer", registry=registry).set(42)
    return registry


@pytest.fixture
def server(registry: CollectorRegistry) -> Iterator[MetricsServer]:
    server = MetricsServer(0, registry, lambda: None, lambda: "no partition is assigned")
    yield server
    server.close()


def test_metrics_are_served_on_loopback(server: MetricsServer) -> None:
    assert server.host == "127.0.0.1"
    code, text = get(server, "/metrics?debug=1")
    assert (code, "answer 42.0" in text) == (200, True)
    assert get(server, "/elsewhere") == (404, "no such page\n")


def test_a_probe_answers_with_its_problem(server: MetricsServer) -> None:
    assert get(server, "/healthz") == (200, "ok\n")
    assert get(server, "/readyz") == (503, "no partition is assigned\n")


def test_a_server_without_probes_has_no_such_pages(registry: CollectorRegistry) -> None:
    server = MetricsServer(0, registry)
    try:
        assert [get(server, path)[0] for path in ("/healthz", "/readyz")] == [404, 404]
    finally:
        server.close()


def test_a_closed_server_gives_its_port_back(registry: CollectorRegistry) -> None:
    first = MetricsServer(0, registry)
    first.close()
    MetricsServer(first.port, registry).close()


def test_a_taken_port_is_one_clear_error(registry: CollectorRegistry) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(StoreUnavailable, match=f"port {port} cannot be listened on.*--metrics-port"):
            MetricsServer(port, registry)
