"""Throughput from Kafka messages to rows of the event log, against the limit of kafka-python.

    python -m benchmarks.ingest [--quick] [--events N] [--rounds N] [--json FILE]

One embedded broker in a separate process; every figure comes from a new process that reads the same topic
from its start. `bare` polls and discards. Rounds alternate, ratios are within a round, and figures are
medians, because the machine's speed drifts. Two streams: `live`, with events of two days, and `replay`, a
year of history at once, where every write makes a file for each day.
"""

import argparse
import statistics
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.harness import Bar, arguments, finish, table
from benchmarks.ingest_live import SESSION_SECONDS, freshness, takeover
from benchmarks.ingest_setup import Bench, as_live, produce, running_broker, simulated_events

_BARE, _TUNED, _CONSUME, _UNSYNCED = "bare", "bare, tuned gc", "consume", "consume, no fsync"
_ROLES = {
    _BARE: ("bare",),
    _TUNED: ("bare", "--tuned-gc"),
    _CONSUME: ("consume",),
    _UNSYNCED: ("consume", "--no-sync"),
}


@dataclass(frozen=True)
class Rounds:
    """Figures of every role in every round, on one topic.

    Args:
        rounds: figures by role, one entry per round.
    """

    rounds: Mapping[str, list[dict[str, float]]]

    def rate(self, role: str, per: str = "seconds") -> float:
        """Median events per second of wall (or of CPU)."""
        return statistics.median(one["events"] / one[per] for one in self.rounds[role])

    def ratios(self, per: str = "seconds") -> list[float]:
        """By round: consume's rate over the faster bare rate of that round."""
        shares = []
        for number, one in enumerate(self.rounds[_CONSUME]):
            bare = max(
                self.rounds[r][number]["events"] / self.rounds[r][number][per] for r in (_BARE, _TUNED)
            )
            shares.append(one["events"] / one[per] / bare)
        return shares

    @property
    def fsync_costs(self) -> list[float]:
        """By round: the share of time of forcing files to the disk."""
        pairs = zip(self.rounds[_CONSUME], self.rounds[_UNSYNCED], strict=True)
        return [synced["seconds"] / unsynced["seconds"] - 1 for synced, unsynced in pairs]


def run_rounds(bench: Bench, topic: str, rounds: int) -> Rounds:
    """Run every role once per round, on one topic."""
    figures: dict[str, list[dict[str, float]]] = {role: [] for role in _ROLES}
    for number in range(rounds):
        for role in list(_ROLES) if number % 2 == 0 else list(_ROLES)[::-1]:
            figures[role].append(bench.play(topic, *_ROLES[role]))
    return Rounds(figures)


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
            bench = Bench(folder, address)
            figures, bars = measure(bench, options)
            more_figures, more_bars = measure_live(bench, options.quick)
    finish(figures | more_figures, bars + more_bars, options.json)


def _options() -> argparse.Namespace:
    parser = arguments(__doc__ or "")
    parser.add_argument("--events", type=int, help="messages in a stream; default: 600,000, quick 300,000")
    parser.add_argument("--rounds", type=int, help="number of rounds; default: 5, quick 3")
    parser.add_argument("--folder", type=Path, help="working folder; default: the system's temporary folder")
    options = parser.parse_args()
    options.events = options.events or (300_000 if options.quick else 600_000)
    options.rounds = options.rounds or (3 if options.quick else 5)
    return options


def measure(bench: Bench, options: argparse.Namespace) -> tuple[dict[str, Any], list[Bar]]:
    """All figures and bars."""
    events = simulated_events(options.events)
    figures: dict[str, Any] = {}
    bars: list[Bar] = []
    for stream, content in (("live", as_live(events)), ("replay", events)):
        figures[f"{stream}_produce_rate"] = produce(bench, stream, content)
        measured = run_rounds(bench, stream, options.rounds)
        print(table(_rows(stream, measured)) + "\n", flush=True)
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
    return figures, bars


def measure_live(bench: Bench, quick: bool) -> tuple[dict[str, Any], list[Bar]]:
    """Takeover and freshness, and their bars."""
    kills = [takeover(bench, number) for number in range(1 if quick else 3)]
    fresh = freshness(bench, 15 if quick else 40)
    print(
        f"\ntakeover after kill -9: {', '.join(f'{seconds:.2f}' for seconds in kills)} s, session time-out"
        f" {SESSION_SECONDS:.0f} s; produce to online at {fresh['online_rate']:,.0f} events/s:"
        f" p50 {fresh['online_p50_seconds']:.2f} s, p99 {fresh['online_p99_seconds']:.2f} s"
    )
    beyond = max(kills) - SESSION_SECONDS
    return {"takeover_seconds": kills, "session_seconds": SESSION_SECONDS, **fresh}, [
        Bar("takeover beyond the session time-out, slowest, s", beyond, 1.0, "lower"),
        Bar("produce to online, p99, s", fresh["online_p99_seconds"], 2.0, "lower"),
    ]


if __name__ == "__main__":
    main()
