"""Setup of `benchmarks.ingest`: a broker, homes, streams of simulated events."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from qanchor.times import DAY_US

REPO = Path(__file__).resolve().parent.parent / "feature_repo"


@dataclass(frozen=True)
class Bench:
    """Broker and folder of a run.

    Args:
        folder: folder of the broker's log and the homes.
        address: address of the broker.
    """

    folder: Path
    address: str

    def environment(self, topic: str, **kafka: Any) -> dict[str, str]:
        """Environment variables of a process; each process has its home."""
        clean = {name: value for name, value in os.environ.items() if not name.startswith("QANCHOR_")}
        settings = {"brokers": self.address, "topic": topic, "group": topic, **kafka}
        home = tempfile.mkdtemp(prefix="home-", dir=self.folder)
        return {
            **clean,
            **{f"QANCHOR_KAFKA__{name.upper()}": str(value) for name, value in settings.items()},
            "QANCHOR_HOME": home,
            "QANCHOR_REPO": str(REPO),
        }

    def play(self, topic: str, *role: str) -> dict[str, float]:
        """Run one role of the worker to its end."""
        env = self.environment(topic)
        figures = finished(self.start(env, *role))
        shutil.rmtree(env["QANCHOR_HOME"])
        return figures

    @staticmethod
    def start(env: dict[str, str], *role: str) -> "subprocess.Popen[str]":
        """Start one role of the worker."""
        command = [sys.executable, "-m", "benchmarks.ingest_worker", *role]
        return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finished(process: "subprocess.Popen[str]") -> dict[str, float]:
    """The output of a finished worker."""
    out, err = process.communicate()
    if process.returncode:
        raise SystemExit(f"{process.args!r} failed: {err[-2000:]}")
    figures: dict[str, float] = json.loads(out)
    return figures


@contextmanager
def running_broker(folder: Path) -> Iterator[str]:
    """The embedded broker in a separate process; yields its address."""
    ready = folder / "ready"
    options = ("broker", "--port", "0", "--data-dir", str(folder / "broker"), "--ready-file", str(ready))
    env = {**os.environ, "QANCHOR_HOME": str(folder), "QANCHOR_REPO": str(REPO)}
    process = subprocess.Popen([sys.executable, "-m", "cli", *options], env=env, stdout=subprocess.DEVNULL)
    try:
        while not ready.exists():
            if process.poll() is not None:
                raise SystemExit("the embedded broker did not start")
            time.sleep(0.05)
        yield ready.read_text()
    finally:
        process.terminate()
        process.wait(20)


def simulated_events(count: int) -> Any:
    """The first `count` events of a simulated world, in order of arrival."""
    from qanchor.simulation.config import WorldPlan
    from qanchor.simulation.world import simulate_block

    plan, block = WorldPlan(users=100_000, seed=7), 0
    parts: list[Any] = []
    while sum(part.num_rows for part in parts) < count:
        parts.append(simulate_block(plan, block, ceilings=False).events)
        block += 1
    events = pa.concat_tables(parts)
    order = pc.sort_indices(events, [("event_time", "ascending")])
    # A sample of the whole year: a slice would have the year's first weeks only.
    keep = np.linspace(0, events.num_rows - 1, count).astype(np.int64)
    return events.take(order.take(pa.array(keep)))


def as_live(events: Any) -> Any:
    """The same events, in the same order, evenly over two days."""
    start = int(events["event_time"][0].cast(pa.int64()).as_py()) // DAY_US * DAY_US
    times = start + np.linspace(0, 2 * DAY_US - 1, events.num_rows).astype(np.int64)
    column = pa.array(times).cast(events.schema.field("event_time").type)
    return events.set_column(events.schema.get_field_index("event_time"), "event_time", column)


def produce(bench: Bench, topic: str, events: Any) -> float:
    """Send events with `qanchor-cli produce`.

    Returns:
        Messages per second.
    """
    path = bench.folder / f"{topic}.parquet"
    pq.write_table(events, path)
    command = [sys.executable, "-m", "cli", "produce", str(path), "--json"]
    ended = subprocess.run(command, env=bench.environment(topic), capture_output=True, text=True, check=True)
    return float(json.loads(ended.stdout)["events_per_second"])
