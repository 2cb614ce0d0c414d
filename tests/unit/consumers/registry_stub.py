"""A schema registry on loopback that knows what a test gives it."""

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Stub:
    """What the stub answers and was asked."""

    schemas: dict[int, Mapping[str, Any]] = field(default_factory=dict)
    failures: int = 0  # answers of 503 before it behaves
    asked: list[str] = field(default_factory=list)
    url: str = ""

    def answer(self, path: str) -> tuple[int, Any]:
        self.asked.append(path)
        if self.failures:
            self.failures -= 1
            return 503, {"message": "starting"}
        schema = self.schemas.get(int(path.rsplit("/", 1)[-1]))
        if schema is None:
            return 404, {"error_code": 40403, "message": "Schema not found"}
        return 200, {"schema": json.dumps(schema)}


@contextmanager
def running_stub() -> Iterator[Stub]:
    stub = Stub()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:  # the library's name
            status, body = stub.answer(self.path)
            self.send_response(status)
            self.end_headers()
            self.wfile.write(json.dumps(body).encode())

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    stub.url = f"http://user:secret@127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield stub
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)
