"""A language model on loopback with scripted replies, which records its requests."""

import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Request = dict[str, Any]
# What to answer: (status, headers, body); a body that is a dict is a draft, text goes out as the content.
Behaviour = Callable[[Request], tuple[int, dict[str, str], Any]]


def facts_of(request: Request) -> dict[str, str]:
    """The facts of the first question in a conversation, by name."""
    facts = request["messages"][1]["content"].partition("Facts:\n")[2]
    return dict(line.split(": ", 1) for line in facts.splitlines())


def question_of(request: Request) -> str:
    """The question that was suggested."""
    match = re.search(r"Suggested question: (.*)", request["messages"][1]["content"])
    assert match is not None
    return match.group(1)


def honest(request: Request) -> tuple[int, dict[str, str], Any]:
    """The suggested question, and the first two facts in other words."""
    sentences = [
        {"text": f"In short: {says}", "facts": [name]} for name, says in list(facts_of(request).items())[:2]
    ]
    return 200, {}, {"question": question_of(request), "answer": sentences}


def saying(text: str, *facts: str) -> Behaviour:
    """One fixed sentence that cites some facts."""
    draft = {"question": "What is to be told about it?", "answer": [{"text": text, "facts": list(facts)}]}
    return lambda _: (200, {}, draft)


def status(code: int, **headers: str) -> Behaviour:
    """An answer that is none."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda _: (code, named, {"error": {"message": "not now"}})


def text(content: str) -> Behaviour:
    """Content that may have any form."""
    return lambda _: (200, {}, content)


def slow(seconds: float) -> Behaviour:
    """An honest answer that comes late."""

    def answer(request: Request) -> tuple[int, dict[str, str], Any]:
        time.sleep(seconds)
        return honest(request)

    return answer


@dataclass
class FakeModel:
    """Scripted behaviours, the default behaviour, and the requests so far.

    Args:
        usage: whether replies have token counts.
    """

    url: str = ""
    then: Behaviour = honest
    script: list[Behaviour] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    usage: bool = True
    lock: threading.Lock = field(default_factory=threading.Lock)

    def next(self, request: Request, headers: dict[str, str]) -> tuple[int, dict[str, str], Any]:
        """The behaviour that is due, applied."""
        with self.lock:
            self.requests.append(request)
            self.headers.append(headers)
            behaviour = self.script.pop(0) if self.script else self.then
        return behaviour(request)

    def body(self, content: Any) -> bytes:
        """An answer as the protocol has it."""
        if isinstance(content, dict) and "error" in content:
            return json.dumps(content).encode()
        text = content if isinstance(content, str) else json.dumps(content)
        answer: dict[str, Any] = {"choices": [{"message": {"role": "assistant", "content": text}}]}
        if self.usage:
            answer["usage"] = {"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 120}
        return json.dumps(answer).encode()


@contextmanager
def serving() -> Iterator[FakeModel]:
    """A fake model that listens until the block ends."""
    fake = FakeModel()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            code, headers, content = fake.next({**request, "path": self.path}, dict(self.headers))
            body = fake.body(content)
            try:
                self.send_response(code)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)
            except (BrokenPipeError, ConnectionResetError):
                return  # the asker's patience had an end

        def log_message(self, *_: object) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    fake.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    try:
        yield fake
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
