"""What `monitor` found as Prometheus gauges: served at /metrics, or written to a textfile."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from prometheus_client import CollectorRegistry, Metric, write_to_textfile
from prometheus_client.core import GaugeMetricFamily

from qanchor.errors import InputError
from qanchor.monitoring.monitor import ScenarioHealth

_STATES = {"ok": 0.0, "alarm": 1.0}
_CHECK = ("scenario", "check")
_MONTH = ("scenario", "month", "head")
_GAUGES: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "value": ("A figure of the last look", _CHECK),
    "limit": ("What the figure is held against", _CHECK),
    "alarm": ("1 where it is beyond its limit, 0 where it holds", _CHECK),
    "unknown_checks": ("Figures that could not be measured", ("scenario",)),
    "calibration_observed": ("Share of label 1 by month of the labels", _MONTH),
    "calibration_expected": ("Mean score of the same rows", _MONTH),
    "last_look_timestamp_seconds": ("Moment of the last look", ("scenario",)),
}


class _LastLook:
    """Gauges made anew for each scrape: kept ones cannot be emptied once Feast, which sets
    PROMETHEUS_MULTIPROC_DIR for its process, has been imported."""

    def __init__(self) -> None:
        self.found: Sequence[ScenarioHealth] = ()

    def collect(self) -> Iterable[Metric]:
        """The gauges, with samples of the last look only."""
        gauges = {
            name: GaugeMetricFamily(f"qanchor_monitor_{name}", text, labels=labels)
            for name, (text, labels) in _GAUGES.items()
        }
        for health in self.found:
            for name, labels, value in _samples(health):
                gauges[name].add_metric(labels, value)
        return gauges.values()


def _samples(health: ScenarioHealth) -> Iterator[tuple[str, tuple[str, ...], float]]:
    """Gauge, labels, value."""
    scenario = (health.scenario,)
    yield "last_look_timestamp_seconds", scenario, health.at.timestamp()
    yield "unknown_checks", scenario, sum(check.state == "unknown" for check in health.checks)
    for check in health.checks:
        names = (health.scenario, check.name)
        if check.value is not None:
            yield "value", names, check.value
        if check.limit is not None and check.state != "unknown":
            yield "limit", names, check.limit
            yield "alarm", names, _STATES[check.state]
    for row in health.calibration:
        month = (health.scenario, str(row["month"]), str(row["head"]))
        yield "calibration_observed", month, row["rate"]
        yield "calibration_expected", month, row["mean_score"]


class MonitorMetrics:
    """The gauges of the last look.

    A figure that cannot be measured has no sample: the series ends, and no old value stands in for it.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._last = _LastLook()
        self.registry.register(self._last)

    def show(self, found: Sequence[ScenarioHealth]) -> None:
        """Show these looks in place of those before.

        Args:
            found: one look at each scenario.
        """
        self._last.found = tuple(found)

    def write(self, path: Path) -> None:
        """Write the gauges to a file for the node exporter's textfile collector, in one step.

        Args:
            path: as `check_textfile` wants it.
        """
        write_to_textfile(str(path), self.registry)


def check_textfile(path: Path) -> None:
    """Refuse a file that the textfile collector would overlook, or that cannot be written.

    Raises:
        InputError: it does not end in .prom, or its folder is not there.
    """
    if path.suffix != ".prom":
        raise InputError(f"{path.name} does not end in .prom", "The textfile collector reads only such.")
    if not path.parent.is_dir():
        raise InputError(f"there is no folder {path.parent}", "Create it, or name another --textfile.")
