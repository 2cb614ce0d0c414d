"""Consumers and brokers to be killed: processes forked from one that has imported everything already.

Production code knows nothing of this: the functions are replaced here, in the process that is to die.
"""

import asyncio
import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Final

from consumers.dead_letters import DeadLetterTopic
from consumers.embedded_broker.server import EmbeddedBroker, run_broker
from consumers.sinks.event_log import EventLogSink
from consumers.stop_rule import StopRule
from qanchor.errors import StoreUnavailable
from qanchor.registry import ledger
from qanchor.storage.event_log import EventLog
from tests.integration.brokers import wait_for
from tests.integration.forks import FORKS, around, die
from tests.integration.places import TO_THE_END, Place

# The write path in its order, by what has just been done; each makes the write that begins the last.
KILL_POINTS: Final[Mapping[str, Callable[[], None]]] = {
    "dead letters sent": partial(around, DeadLetterTopic, "send", after=die),
    "before staging": partial(around, EventLog, "stage", before=die),
    "staged, not synced": partial(around, os, "fsync", before=die),
    "in the transaction": partial(around, ledger, "_set_published", after=die),
    "committed": partial(around, ledger, "commit_entry", after=die),
    "between two renames": partial(around, Path, "rename", after=die),
    "renamed": partial(around, EventLog, "publish", after=die),
}


def _stop_here() -> None:
    # Sent to the process, it may reach this thread late: inside the transaction, holding the database.
    signal.pthread_kill(threading.get_ident(), signal.SIGSTOP)


def _stop_at_commit() -> None:
    around(ledger, "commit_entry", before=_stop_here)


def _arm(number: int, deed: Callable[[], None]) -> None:
    """Do something when the write of that number begins; a write without records does not count."""
    real, begun = EventLogSink.write, [0]

    def write(sink: EventLogSink, records: Any, ranges: Mapping[int, tuple[int, int]]) -> Any:
        begun[0] += bool(ranges)
        if begun[0] == number:
            deed()
        return real(sink, records, ranges)

    setattr(EventLogSink, "write", write)  # noqa: B010  # mypy lets no method be assigned


def _die_at(point: str, write: int) -> None:
    _arm(write, KILL_POINTS[point])


def _consume(place: Place, name: str, rule: StopRule, prepare: Callable[[], None] | None) -> None:
    if prepare is not None:
        prepare()
    try:
        summary = place.consume(rule, name=name)
    except StoreUnavailable as error:
        sys.exit(error.exit_code)
    (place.home / f"{name}.json").write_text(json.dumps({"events": summary.events, "fenced": summary.fenced}))


def start_consumer(
    place: Place, name: str, rule: StopRule = TO_THE_END, prepare: Callable[[], None] | None = None
) -> BaseProcess:
    """A consumer in a process of its own.

    Args:
        place: home and broker.
        name: of the consumer; its summary is left in `NAME.json` in the home.
        rule: when it ends of its own accord.
        prepare: run there first, such as `dies_at(point)`.
    """
    process = FORKS.Process(target=_consume, args=(place, name, rule, prepare), daemon=True)
    process.start()
    return process


def dies_at(point: str, write: int = 2) -> Callable[[], None]:
    """Has a consumer kill itself at a point of its write of that number."""
    return partial(_die_at, point, write)  # the name, because a function of a module cannot be sent there


def stops_before_commit(write: int = 2) -> Callable[[], None]:
    """Has a consumer stop, as by SIGSTOP, when all is staged and only the ledger's transaction is missing."""
    return partial(_arm, write, _stop_at_commit)


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
        self._process = FORKS.Process(target=_serve, args=arguments, daemon=True)
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
