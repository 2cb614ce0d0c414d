"""How fast Kafka messages become rows of the event log, against what kafka-python can do at all.

    python -m benchmarks.ingest [--quick] [--events N] [--rounds N] [--json FILE]

One embedded broker in a process of its own; every figure from a fresh process that reads the same topic
from its start. `bare` polls and throws away. Rounds alternate, ratios are taken within a round, and their
median counts: the machine's speed drifts. Two streams: `live`, whose events are of two days, as a
stream's are, and `replay`, a year of history at once, where every write makes a file for each day.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from benchmarks.harness import Bar, arguments, finish, table

REPO = Path(__file__).resolve().parent.parent / "feature_repo"
_DAY_US = 86_400_000_000
_BARE, _TUNED, _CONSUME, _UNSYNCED = "bare", "bare, tuned gc", "consume", "consume, no fsync"
_ROLES = {
    _BARE: ("bare",),
    _TUNED: ("bare", "--tuned-gc"),
    _CONSUME: ("consume",),
    _UNSYNCED: ("consume", "--no-sync"),
}


@dataclass(frozen=True)
class Bench:
    """Where a run happens.

    Args:
        folder: for the broker's log and the homes.
        address: of the broker.
    """

    folder: Path
    address: str

    def environment(self, topic: str, **kafka: Any) -> dict[str, str]:
        """What a process of a run sees; every one has a home of its own."""
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
        """One role of the worker, to its end."""
        env = self.environment(topic)
        command = [sys.executable, "-m", "benchmarks.ingest_worker", *role]
        ended = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
        shutil.rmtree(env["QANCHOR_HOME"])
        if ended.returncode:
            raise SystemExit(f"{' '.join(role)} failed: {ended.stderr[-2000:]}")
        figures: dict[str, float] = json.loads(ended.stdout)
        return figures


@contextmanager
def running_broker(folder: Path) -> Iterator[str]:
    """The embedded broker in a process of its own; yields its address."""
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
    # The whole year's worth of blocks, thinned: a slice would hold the year's first weeks only.
    keep = np.linspace(0, events.num_rows - 1, count).astype(np.int64)
    return events.take(order.take(pa.array(keep)))


def as_live(events: Any) -> Any:
    """The same events, in the same order, evenly over two days."""
    start = int(events["event_time"][0].cast(pa.int64()).as_py()) // _DAY_US * _DAY_US
    times = start + np.linspace(0, 2 * _DAY_US - 1, events.num_rows).astype(np.int64)
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


@dataclass(frozen=True)
class Rounds:
    """What every role did in every round, on one topic.

    Args:
        rounds: by role its figures, one entry for each round.
    """

    rounds: Mapping[str, list[dict[str, float]]]

    def rate(self, role: str, per: str = "seconds") -> float:
        """Median events per second of wall (or of CPU)."""
        return statistics.median(one["events"] / one[per] for one in self.rounds[role])

    def ratios(self, per: str = "seconds") -> list[float]:
        """By round: consume's rate over the faster bare rate of that round."""
        found = []
        for number, one in enumerate(self.rounds[_CONSUME]):
            bare = max(
                self.rounds[r][number]["events"] / self.rounds[r][number][per] for r in (_BARE, _TUNED)
            )
            found.append(one["events"] / one[per] / bare)
        return found

    @property
    def fsync_costs(self) -> list[float]:
        """By round: the share of time that forcing files to the disk adds."""
        pairs = zip(self.rounds[_CONSUME], self.rounds[_UNSYNCED], strict=True)
        return [synced["seconds"] / unsynced["seconds"] - 1 for synced, unsynced in pairs]


def run_rounds(bench: Bench, topic: str, rounds: int) -> Rounds:
    """Every role once a round, on one topic."""
    found: dict[str, list[dict[str, float]]] = {role: [] for role in _ROLES}
    for number in range(rounds):
        for role in list(_ROLES) if number % 2 == 0 else list(_ROLES)[::-1]:
            found[role].append(bench.play(topic, *_ROLES[role]))
    return Rounds(found)


def _rows(stream: str, measured: Rounds) -> list[dict[str, Any]]:
    return [
        {
            "stream": stream,
            "what": role,
            "events/s": round(measured.rate(role)),
            "events/CPU second": round(measured.rate(role, "cpu_seconds")),
            "peak MiB": round(max(one["peak_mib"] for one in measured.rounds[role])),
        }
        for role in _ROLES
    ]


def main() -> None:
    """Measure and print."""
    options = _options()
    with tempfile.TemporaryDirectory(prefix="qanchor-ingest-", dir=options.folder) as name:
        folder = Path(name)
        with running_broker(folder) as address:
            figures, bars = measure(Bench(folder, address), options)
    finish(figures, bars, options.json)


def _options() -> argparse.Namespace:
    parser = arguments(__doc__ or "")
    parser.add_argument("--events", type=int, help="messages in a stream; default 600,000, quick 300,000")
    parser.add_argument("--rounds", type=int, help="default 5, quick 3")
    parser.add_argument("--folder", type=Path, help="where to write; default: the system's temporary folder")
    options = parser.parse_args()
    options.events = options.events or (300_000 if options.quick else 600_000)
    options.rounds = options.rounds or (3 if options.quick else 5)
    return options


def measure(bench: Bench, options: argparse.Namespace) -> tuple[dict[str, Any], list[Bar]]:
    """All figures and the issue's bars."""
    events = simulated_events(options.events)
    figures: dict[str, Any] = {}
    bars: list[Bar] = []
    rows: list[dict[str, Any]] = []
    for stream, content in (("live", as_live(events)), ("replay", events)):
        figures[f"{stream}_produce_rate"] = produce(bench, stream, content)
        measured = run_rounds(bench, stream, options.rounds)
        rows += _rows(stream, measured)
        for name, values, bar in (
            ("wall", measured.ratios(), 0.60),
            ("CPU", measured.ratios("cpu_seconds"), 0.55),
        ):
            figures[f"{stream}_ratio_{name}"] = values
            bars.append(Bar(f"{stream}: consume / bare by {name}", statistics.median(values), bar, "higher"))
        figures[f"{stream}_fsync_cost"] = measured.fsync_costs
        cost = statistics.median(measured.fsync_costs)
        bars.append(Bar(f"{stream}: cost of fsync", cost, 0.10, "lower"))
        decoded = bench.play(stream, "decode")
        rate = decoded["events"] / decoded["seconds"]
        figures[f"{stream}_decode_rate"] = rate
        bare = max(measured.rate(_BARE), measured.rate(_TUNED))
        bars.append(Bar(f"{stream}: decode and validate / bare", rate / bare, 3.0, "higher"))
        figures |= {f"{stream}_{role}": one for role, one in measured.rounds.items()}
    print(table(rows))
    return figures, bars


if __name__ == "__main__":
    main()
