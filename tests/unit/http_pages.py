"""Pages of a local HTTP server."""

import urllib.error
import urllib.request

from qanchor.metrics_server import MetricsServer


def get(server: MetricsServer, path: str) -> tuple[int, str]:
    """The status and the text of a page."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{server.port}{path}", timeout=5) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()
