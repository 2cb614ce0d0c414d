"""Results of health checks on record: a Parquet history by scenario and month, and Prometheus gauges."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from prometheus_client import CollectorRegistry, Metric, write_to_textfile
from prometheus_client.core import GaugeMetricFamily

from qanchor.errors import InputError, NotReady
from qanchor.files import atomic_file
from qanchor.home import Home
from qanchor.times import TIMESTAMP

if TYPE_CHECKING:
    from qanchor.monitoring.monitor import ScenarioHealth

SCHEMA: Final = pa.schema(
    [
        ("at", TIMESTAMP),
        ("head", pa.string()),
        ("check", pa.string()),
        ("value", pa.float64()),
        ("limit", pa.float64()),
        ("state", pa.string()),
        ("note", pa.string()),
    ]
)
_STATES: Final = {"ok": 0.0, "alarm": 1.0}
_CHECK: Final = ("scenario", "check")
_MONTH: Final = ("scenario", "month", "head")
_GAUGES: Final[Mapping[str, tuple[str, tuple[str, ...]]]] = {
    "value": ("Value of a check", _CHECK),
    "limit": ("Limit of a check", _CHECK),
    "alarm": ("1 where a check is beyond its limit, otherwise 0", _CHECK),
    "unknown_checks": ("Number of checks that could not be measured", ("scenario",)),
    "calibration_observed": ("Share of label 1 by month of the labels", _MONTH),
    "calibration_expected": ("Mean score of the same rows", _MONTH),
    "last_look_timestamp_seconds": ("Time of the last health check", ("scenario",)),
}


def record(home: Home, results: "Sequence[ScenarioHealth]") -> None:
    """Add results to the history; a result replaces one of the same scenario and time.

    Args:
        home: folder of the history.
        results: one result for each scenario.

    Raises:
        NotReady: a file of the history is damaged.
        DiskFull: no space is left; free some.
    """
    for health in results:
        path = home.monitoring / health.scenario / f"{health.at:%Y-%m}.parquet"
        rows = [
            {
                "at": health.at,
                "head": health.head,
                "check": check.name,
                "value": check.value,
                "limit": check.limit,
                "state": check.state,
                "note": check.note,
            }
            for check in health.checks
        ]
        table = pa.Table.from_pylist(rows, SCHEMA)
        if path.exists():
            recorded = _read(path)
            others = recorded.filter(pc.not_equal(recorded["at"], pa.scalar(health.at, TIMESTAMP)))
            table = pa.concat_tables([others, table])
        with atomic_file(path) as staged:
            pq.write_table(table.sort_by([("at", "ascending")]), staged)


def read_history(home: Home, scenario: str, since: datetime | None = None) -> pa.Table:
    """The results of a scenario, the earliest first, one row for each check.

    Args:
        home: folder of the history.
        scenario: name of the scenario.
        since: time of the earliest result, UTC; default: all.

    Raises:
        NotReady: a file is damaged.
    """
    tables = [_read(path) for path in sorted((home.monitoring / scenario).glob("[!.]*.parquet"))]
    table = pa.concat_tables([SCHEMA.empty_table(), *tables])
    if since is None:
        return table
    return table.filter(pc.greater_equal(table["at"], pa.scalar(since, TIMESTAMP)))


@dataclass(frozen=True)
class LastCheck:
    """The newest recorded health check of a scenario.

    Args:
        at: time of the check, UTC.
        alarms: names of the checks that were beyond their limit.
    """

    at: datetime
    alarms: tuple[str, ...]


def last_check(home: Home, scenario: str) -> LastCheck | None:
    """The newest recorded health check of a scenario; None without any.

    Args:
        home: folder of the history.
        scenario: name of the scenario.

    Raises:
        NotReady: its file is damaged.
    """
    paths = sorted((home.monitoring / scenario).glob("[!.]*.parquet"))
    rows = _read(paths[-1]).to_pylist() if paths else []
    if not rows:
        return None
    at = max(row["at"] for row in rows)
    alarms = (row["check"] for row in rows if row["at"] == at and row["state"] == "alarm")
    return LastCheck(at, tuple(alarms))


def _read(path: Path) -> pa.Table:
    try:
        return pq.read_table(path, schema=SCHEMA, partitioning=None)
    except (OSError, pa.ArrowInvalid) as error:
        raise NotReady(f"{path} cannot be read: {error}", "Move it away; a new one is begun.") from error


class MonitorMetrics:
    """The gauges of the last health check.

    A check that cannot be measured has no sample: its series ends, and no old value remains.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._last = _LastResults()
        self.registry.register(self._last)

    def show(self, results: "Sequence[ScenarioHealth]") -> None:
        """Replace the results shown."""
        self._last.results = tuple(results)

    def write(self, path: Path) -> None:
        """Write the gauges to a file for the node exporter's textfile collector, in one step.

        Args:
            path: file that `check_textfile` accepts.
        """
        write_to_textfile(str(path), self.registry)


class _LastResults:
    """Collects new gauges for each scrape: once Feast, which sets PROMETHEUS_MULTIPROC_DIR for its process,
    has been imported, gauges that are kept cannot be emptied."""

    def __init__(self) -> None:
        self.results: Sequence[ScenarioHealth] = ()

    def collect(self) -> Iterable[Metric]:
        """The gauges, with samples of the last results only."""
        gauges = {
            name: GaugeMetricFamily(f"qanchor_monitor_{name}", text, labels=labels)
            for name, (text, labels) in _GAUGES.items()
        }
        for health in self.results:
            for name, labels, value in _samples(health):
                gauges[name].add_metric(labels, value)
        return gauges.values()


def _samples(health: "ScenarioHealth") -> Iterator[tuple[str, tuple[str, ...], float]]:
    """Gauge, labels, value."""
    scenario = (health.scenario,)
    yield "last_look_timestamp_seconds", scenario, health.at.timestamp()
    yield "unknown_checks", scenario, sum(check.state == "unknown" for check in health.checks)
    for check in health.checks:
        labels = (health.scenario, check.name)
        if check.value is not None:
            yield "value", labels, check.value
        if check.limit is not None and check.state != "unknown":
            yield "limit", labels, check.limit
            yield "alarm", labels, _STATES[check.state]
    for row in health.calibration:
        month = (health.scenario, str(row["month"]), str(row["head"]))
        yield "calibration_observed", month, row["rate"]
        yield "calibration_expected", month, row["mean_score"]


def check_textfile(path: Path) -> None:
    """Refuse a file that the textfile collector would ignore, or that cannot be written.

    Raises:
        InputError: it does not end in .prom, or its folder does not exist.
    """
    if path.suffix != ".prom":
        raise InputError(f"{path.name} does not end in .prom", "The textfile collector reads no other files.")
    if not path.parent.is_dir():
        raise InputError(f"there is no folder {path.parent}", "Create it, or name another --textfile.")
