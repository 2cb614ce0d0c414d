"""A language model on loopback that behaves as it is told, and remembers what it was asked."""

import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Asked = dict[str, Any]
# What to answer: (status, headers, body); a body that is a dict is a draft, text goes out as the content.
Behaviour = Callable[[Asked], tuple[int, dict[str, str], Any]]


def facts_of(asked: Asked) -> dict[str, str]:
    """The facts of the first question in a conversation, by name."""
    told = asked["messages"][1]["content"].partition("Facts:\n")[2]
    return dict(line.split(": ", 1) for line in told.splitlines())


def question_of(asked: Asked) -> str:
    """The question that was suggested."""
    found = re.search(r"Suggested question: (.*)", asked["messages"][1]["content"])
    assert found is not None
    return found.group(1)


def honest(asked: Asked) -> tuple[int, dict[str, str], Any]:
    """A question of its own, and the first two facts in words of its own."""
    sentences = [
        {"text": f"In short: {says}", "facts": [name]} for name, says in list(facts_of(asked).items())[:2]
    ]
    return 200, {}, {"question": question_of(asked), "answer": sentences}


def saying(text: str, *facts: str) -> Behaviour:
    """One sentence, whatever is asked, that cites some facts."""
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

    def answer(asked: Asked) -> tuple[int, dict[str, str], Any]:
        time.sleep(seconds)
        return honest(asked)

    return answer


@dataclass
class FakeModel:
    """What it does next, what it does afterwards, and what it was asked.

    Args:
        usage: it says how many tokens it read and wrote.
    """

    url: str = ""
    then: Behaviour = honest
    script: list[Behaviour] = field(default_factory=list)
    asked: list[Asked] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    usage: bool = True
    lock: threading.Lock = field(default_factory=threading.Lock)

    def next(self, asked: Asked, headers: dict[str, str]) -> tuple[int, dict[str, str], Any]:
        """The behaviour that is due, applied."""
        with self.lock:
            self.asked.append(asked)
            self.headers.append(headers)
            behaviour = self.script.pop(0) if self.script else self.then
        return behaviour(asked)

    def body(self, content: Any) -> bytes:
        """An answer as the protocol has it."""
        if isinstance(content, dict) and "error" in content:
            return json.dumps(content).encode()
        said = content if isinstance(content, str) else json.dumps(content)
        answer: dict[str, Any] = {"choices": [{"message": {"role": "assistant", "content": said}}]}
        if self.usage:
            answer["usage"] = {"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 120}
        return json.dumps(answer).encode()


@contextmanager
def serving() -> Iterator[FakeModel]:
    """A fake model that listens until the block ends."""
    fake = FakeModel()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            code, headers, content = fake.next({**asked, "path": self.path}, dict(self.headers))
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
