"""HTTP on loopback: /metrics for Prometheus, /healthz and /readyz for a process supervisor."""

import threading
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Final
from wsgiref.simple_server import WSGIRequestHandler, make_server

from prometheus_client import CollectorRegistry, make_wsgi_app
from prometheus_client.exposition import ThreadingWSGIServer

from qanchor.errors import StoreUnavailable

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

_LOOPBACK: Final = "127.0.0.1"

# None where all is well, otherwise what is wrong, in one line.
Probe = Callable[[], str | None]


class MetricsServer:
    """Serves in a background thread until it is closed.

    A probe's page has status 200 and the body `ok`, or status 503 and the problem.

    Args:
        port: on loopback; 0 takes a free one.
        registry: metrics of /metrics.
        healthy: probe of /healthz; default: there is no such page.
        ready: probe of /readyz; default: there is no such page.

    Raises:
        StoreUnavailable: the port is taken; choose another one.
    """

    def __init__(
        self,
        port: int,
        registry: CollectorRegistry,
        healthy: Probe | None = None,
        ready: Probe | None = None,
    ) -> None:
        probes = {"/healthz": healthy, "/readyz": ready}
        app = _application(registry, {path: probe for path, probe in probes.items() if probe is not None})
        try:
            self._server = make_server(_LOOPBACK, port, app, ThreadingWSGIServer, _SilentHandler)
        except OSError as error:
            raise StoreUnavailable(
                f"port {port} cannot be listened on: {error.strerror}", "Choose another --metrics-port."
            ) from error
        self.host, self.port = self._server.server_address[:2]
        threading.Thread(target=self._server.serve_forever, name="metrics", daemon=True).start()

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()


def _application(registry: CollectorRegistry, probes: dict[str, Probe]) -> "WSGIApplication":
    metrics = make_wsgi_app(registry)

    def respond(environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        if path == "/metrics":
            pages: Iterable[bytes] = metrics(environ, start_response)
            return pages
        status, text = "404 Not Found", "no such page"
        if path in probes:
            problem = probes[path]()
            status, text = ("200 OK", "ok") if problem is None else ("503 Service Unavailable", problem)
        body = f"{text}\n".encode()
        headers = [("Content-Type", "text/plain; charset=utf-8"), ("Content-Length", str(len(body)))]
        start_response(status, headers)
        return [body]

    return respond


class _SilentHandler(WSGIRequestHandler):
    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the library's name
        """Do not log: a scrape is no news."""
