"""Consumers and brokers to be killed: processes forked from one that has imported everything already.

Production code knows nothing of this: the functions are replaced here, in the process that is to die.
"""

import asyncio
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Final

from consumers.dead_letters import DeadLetterTopic
from consumers.embedded_broker.server import EmbeddedBroker, run_broker
from consumers.event_consumer import StopRule
from consumers.sinks.event_log import EventLogSink
from qanchor.registry import ledger
from qanchor.storage.event_log import EventLog
from tests.integration.brokers import wait_for
from tests.integration.places import TO_THE_END, Place

_FORKS: Final = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["pytest", __name__])


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _around(
    owner: Any, name: str, before: Callable[[], object] = int, after: Callable[[], object] = int
) -> None:
    """Replace a function by one that does something before or after its next call."""
    real = getattr(owner, name)

    def replaced(*given: Any, **named: Any) -> Any:
        before()
        result = real(*given, **named)
        after()
        return result

    setattr(owner, name, replaced)


# The write path in its order, by what has just been done; each makes the write that begins the last.
KILL_POINTS: Final[Mapping[str, Callable[[], None]]] = {
    "dead letters sent": lambda: _around(DeadLetterTopic, "send", after=_die),
    "before staging": lambda: _around(EventLog, "stage", before=_die),
    "staged, not synced": lambda: _around(os, "fsync", before=_die),
    "in the transaction": lambda: _around(ledger, "_set_published", after=_die),
    "committed": lambda: _around(ledger, "commit_entry", after=_die),
    "between two renames": lambda: _around(Path, "rename", after=_die),
    "renamed": lambda: _around(EventLog, "publish", after=_die),
}


def _arm(point: str, number: int) -> None:
    """Die at a point of the write of that number; a write without records does not count."""
    real, begun = EventLogSink.write, [0]

    def write(sink: EventLogSink, records: Any, ranges: Mapping[int, tuple[int, int]]) -> Any:
        begun[0] += bool(ranges)
        if begun[0] == number:
            KILL_POINTS[point]()
        return real(sink, records, ranges)

    setattr(EventLogSink, "write", write)  # noqa: B010  # mypy lets no method be assigned


def _consume(place: Place, name: str, rule: StopRule, point: str | None, write: int) -> None:
    if point is not None:
        _arm(point, write)
    place.consume(rule, name=name)


def start_consumer(
    place: Place, name: str, rule: StopRule = TO_THE_END, point: str | None = None, write: int = 2
) -> BaseProcess:
    """A consumer in a process of its own; with a point it dies there."""
    process = _FORKS.Process(target=_consume, args=(place, name, rule, point, write), daemon=True)
    process.start()
    return process


def _serve(folder: Path, port: int, ready: Path) -> None:
    broker = EmbeddedBroker(folder, port)

    def started() -> None:
        part = ready.with_suffix(".part")
        part.write_text(str(broker.port))
        part.replace(ready)

    asyncio.run(run_broker(broker, started))


class MortalBroker:
    """An embedded broker in a process of its own, which may be killed and comes back at its port."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._ready = folder, folder.with_suffix(".ready")
        self._port = 0
        self.start()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._port}"

    def start(self) -> None:
        self._ready.unlink(missing_ok=True)
        arguments = (self._folder, self._port, self._ready)
        self._process = _FORKS.Process(target=_serve, args=arguments, daemon=True)
        self._process.start()
        wait_for(self._ready.exists)
        self._port = int(self._ready.read_text())

    def kill(self) -> None:
        self._process.kill()
        self._process.join()


@contextmanager
def mortal_broker(folder: Path) -> Iterator[MortalBroker]:
    broker = MortalBroker(folder)
    try:
        yield broker
    finally:
        broker.kill()
