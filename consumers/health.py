"""Over HTTP, on loopback: /metrics for Prometheus, /healthz and /readyz for supervisors."""

import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from sqlalchemy import Engine, text

from qanchor.errors import DatabaseUnavailable, StoreUnavailable
from qanchor.registry.session import transaction

_LOOPBACK: Final = "127.0.0.1"
_PLAIN: Final = "text/plain; charset=utf-8"


class Health:
    """Whether the consumer's loop turns, and whether it can do its work.

    Args:
        engine: the registry with the ledger.
        longest_pause_seconds: a loop that does not turn for so long hangs; the group would drop it too.
    """

    def __init__(self, engine: Engine, longest_pause_seconds: float) -> None:
        self._engine, self._longest = engine, longest_pause_seconds
        self._turned = time.monotonic()
        self._owned = 0
        self._refusal = ""

    def beat(self, owned: int, refusal: str = "") -> None:
        """Note that the loop has turned.

        Args:
            owned: number of partitions owned.
            refusal: what the brokers refuse; empty if nothing.
        """
        self._turned, self._owned, self._refusal = time.monotonic(), owned, refusal

    def why_not_alive(self) -> str | None:
        """None if the loop turns, otherwise what is wrong."""
        silent = time.monotonic() - self._turned
        return None if silent <= self._longest else f"the loop has not turned for {silent:.0f} s"

    def why_not_ready(self) -> str | None:
        """None if partitions are assigned and the ledger answers, otherwise what is wrong."""
        if self._refusal:
            return self._refusal
        if not self._owned:
            return "no partition is assigned"
        try:
            with transaction(self._engine) as session:
                session.execute(text("SELECT 1 FROM ledger_offsets LIMIT 1"))
        except DatabaseUnavailable as error:
            return error.problem
        return self.why_not_alive()


class HealthServer:
    """Serves until it is closed, in threads of its own.

    Args:
        port: 0 takes a free one.
        registry: metrics.
        health: what /healthz and /readyz say.

    Raises:
        StoreUnavailable: the port is taken; choose another one.
    """

    def __init__(self, port: int, registry: CollectorRegistry, health: Health) -> None:
        pages: dict[str, Callable[[], tuple[int, str, bytes]]] = {
            "/metrics": lambda: (200, CONTENT_TYPE_LATEST, generate_latest(registry)),
            "/healthz": lambda: _page(health.why_not_alive()),
            "/readyz": lambda: _page(health.why_not_ready()),
        }
        try:
            self._server = ThreadingHTTPServer((_LOOPBACK, port), _handler(pages))
        except OSError as error:
            raise StoreUnavailable(
                f"port {port} cannot be listened on: {error.strerror}", "Choose another --metrics-port."
            ) from error
        self.port: int = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, name="health", daemon=True).start()

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()


def _page(problem: str | None) -> tuple[int, str, bytes]:
    return (200, _PLAIN, b"ok\n") if problem is None else (503, _PLAIN, f"{problem}\n".encode())


def _handler(pages: dict[str, Callable[[], tuple[int, str, bytes]]]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:  # the library's name
            page = pages.get(self.path.split("?", maxsplit=1)[0], lambda: (404, _PLAIN, b"no such page\n"))
            code, kind, body = page()
            self.send_response(code)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # the library's name
            """Scrapes are no news."""

    return Handler
