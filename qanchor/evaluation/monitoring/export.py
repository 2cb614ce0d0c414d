"""What `monitor` found as Prometheus gauges: served at /metrics, or written to a textfile."""

from collections.abc import Sequence
from pathlib import Path

from prometheus_client import CollectorRegistry, Gauge, start_http_server, write_to_textfile

from qanchor.errors import InputError, StoreUnavailable
from qanchor.evaluation.monitoring.monitor import ScenarioHealth

_STATES = {"ok": 0.0, "alarm": 1.0}


class MonitorMetrics:
    """The gauges of the last look.

    A figure that cannot be measured has no sample: the series ends, and no old value stands in for it.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        labels = ["scenario", "check"]
        self._value = self._gauge("value", "A figure of the last look", labels)
        self._limit = self._gauge("limit", "What the figure is held against", labels)
        self._alarm = self._gauge("alarm", "1 where it is beyond its limit, 0 where it holds", labels)
        self._unknown = self._gauge("unknown_checks", "Figures that could not be measured", ["scenario"])
        self._rate = self._gauge(
            "calibration_observed", "Share of label 1 by month of the labels", ["scenario", "month", "head"]
        )
        self._score = self._gauge(
            "calibration_expected", "Mean score of the same rows", ["scenario", "month", "head"]
        )
        self._look = self._gauge("last_look_timestamp_seconds", "Moment of the last look", ["scenario"])

    def _gauge(self, name: str, text: str, labels: list[str]) -> Gauge:
        return Gauge(f"qanchor_monitor_{name}", text, labels, registry=self.registry)

    def show(self, found: Sequence[ScenarioHealth]) -> None:
        """Show these looks in place of those before.

        Args:
            found: one look at each scenario.
        """
        for gauge in (self._value, self._limit, self._alarm, self._unknown, self._rate, self._score):
            gauge.clear()
        for health in found:
            self._look.labels(health.scenario).set(health.at.timestamp())
            self._unknown.labels(health.scenario).set(
                sum(check.state == "unknown" for check in health.checks)
            )
            for check in health.checks:
                names = (health.scenario, check.name)
                if check.value is not None:
                    self._value.labels(*names).set(check.value)
                if check.limit is not None and check.state != "unknown":
                    self._limit.labels(*names).set(check.limit)
                    self._alarm.labels(*names).set(_STATES[check.state])
            for row in health.calibration:
                labels = (health.scenario, row["month"], row["head"])
                self._rate.labels(*labels).set(row["rate"])
                self._score.labels(*labels).set(row["mean_score"])

    def serve(self, port: int) -> None:
        """Serve /metrics on loopback for as long as the process lives.

        Args:
            port: to listen on.

        Raises:
            StoreUnavailable: the port is taken; choose another one.
        """
        try:
            start_http_server(port, addr="127.0.0.1", registry=self.registry)
        except OSError as error:
            raise StoreUnavailable(
                f"port {port} cannot be listened on: {error.strerror}", "Choose another --metrics-port."
            ) from error

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
