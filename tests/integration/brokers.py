"""Brokers and commands for tests: in a thread where faults are injected, as a process where it is killed."""

import asyncio
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kafka import KafkaConsumer, TopicPartition

from consumers.embedded_broker.server import EmbeddedBroker, Fault

REPO = Path(__file__).parents[2] / "examples" / "online_retail"


class ThreadedBroker:
    """An embedded broker on an event loop in a thread of its own."""

    def __init__(self, folder: Path, port: int = 0) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self.broker = EmbeddedBroker(folder, port)
        self._run(self.broker.start())

    def _run(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    @property
    def address(self) -> str:
        return self.broker.address

    def inject(self, api_key: int, *faults: Fault) -> None:
        self.broker.faults[api_key].extend(faults)

    def stop(self) -> None:
        self._run(self.broker.stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()


@contextmanager
def threaded_broker(folder: Path, port: int = 0) -> Iterator[ThreadedBroker]:
    broker = ThreadedBroker(folder, port)
    try:
        yield broker
    finally:
        broker.stop()


def environment(home: Path, address: str, **settings: str) -> dict[str, str]:
    """What a command of this project sees; `settings` are KafkaSettings."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("QANCHOR_")}
    kafka = {f"QANCHOR_KAFKA__{name.upper()}": value for name, value in settings.items()}
    return {
        **clean,
        **kafka,
        "QANCHOR_HOME": str(home),
        "QANCHOR_REPO": str(REPO),
        "QANCHOR_KAFKA__BROKERS": address,
        "OMP_NUM_THREADS": "1",
    }


def start_command(arguments: list[str], env: Mapping[str, str]) -> "subprocess.Popen[str]":
    """A `qanchor-cli` command as a process."""
    return subprocess.Popen(
        [sys.executable, "-c", "from cli.app import main; main()", *arguments],
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )


def run_command(arguments: list[str], env: Mapping[str, str]) -> "subprocess.CompletedProcess[str]":
    """A `qanchor-cli` command, to its end."""
    with start_command(arguments, env) as process:
        out, err = process.communicate(timeout=60)
    return subprocess.CompletedProcess(arguments, process.returncode, out, err)


def wait_for(condition: Any, seconds: float = 20.0) -> None:
    """Return once `condition()` holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{condition} did not hold within {seconds} s")
        time.sleep(0.05)


def read_values(address: str, topic: str, count: int, **options: Any) -> list[bytes]:
    """The first values of partition 0, read with kafka-python; fewer after 10 seconds."""
    consumer = KafkaConsumer(bootstrap_servers=address, auto_offset_reset="earliest", **options)
    consumer.assign([TopicPartition(topic, 0)])
    values: list[bytes] = []
    deadline = time.monotonic() + 10
    while len(values) < count and time.monotonic() < deadline:
        for records in consumer.poll(200).values():
            values += [record.value for record in records]
    consumer.close()
    return values
