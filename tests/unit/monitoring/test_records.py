"""Results on record: the gauges of Prometheus and the history."""

import json
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from qanchor.errors import InputError, NotReady
from qanchor.home import Home
from qanchor.monitoring.checks import Check, at_least, at_most, figure, unknown
from qanchor.monitoring.monitor import ScenarioHealth
from qanchor.monitoring.records import MonitorMetrics, check_textfile, read_history, record
from tests.unit.monitoring.service import Service

NOW = datetime(2026, 5, 2, 12, tzinfo=UTC)
DASHBOARD = Path(__file__).parents[3] / "docs" / "grafana" / "monitoring.json"
COHORT = {
    "month": "2026-03",
    "head": "h1",
    "rows": 500,
    "mean_score": 0.25,
    "rate": 0.5,
    "calibration_error": 0.25,
    "by_chance": 0.04,
    "auc": 0.7,
}


def look(*checks: Check, at: datetime = NOW) -> ScenarioHealth:
    return ScenarioHealth("risk", at, "h1", checks, (), (COHORT,))


def samples(path: Path) -> dict[tuple[str, ...], float]:
    order = ("scenario", "check", "month", "head")
    return {
        (
            sample.name.removeprefix("qanchor_monitor_"),
            *(sample.labels[name] for name in order if name in sample.labels),
        ): sample.value
        for family in text_string_to_metric_families(path.read_text())
        for sample in family.samples
    }


def test_each_figure_has_its_value_limit_and_alarm(tmp_path: Path) -> None:
    metrics = MonitorMetrics()
    metrics.show(
        [look(at_most("score_psi", 0.3, 0.25), at_least("score_coverage", 1.0, 0.9), figure("n", 5))]
    )
    metrics.write(tmp_path / "qanchor.prom")
    exported = samples(tmp_path / "qanchor.prom")
    assert exported["value", "risk", "score_psi"] == 0.3
    assert exported["limit", "risk", "score_psi"] == 0.25
    assert (exported["alarm", "risk", "score_psi"], exported["alarm", "risk", "score_coverage"]) == (1, 0)
    assert exported["value", "risk", "n"] == 5
    assert ("alarm", "risk", "n") not in exported
    assert exported["calibration_expected", "risk", "2026-03", "h1"] == 0.25
    assert exported["calibration_observed", "risk", "2026-03", "h1"] == 0.5
    assert exported["last_look_timestamp_seconds", "risk"] == NOW.timestamp()


def test_a_figure_that_cannot_be_measured_any_more_keeps_no_old_value(tmp_path: Path) -> None:
    metrics, path = MonitorMetrics(), tmp_path / "qanchor.prom"
    metrics.show([look(at_most("score_psi", 0.3, 0.25))])
    metrics.show([look(unknown("score_psi", "no scores"))])
    metrics.write(path)
    exported = samples(path)
    assert not {key for key in exported if "score_psi" in key}
    assert exported["unknown_checks", "risk"] == 1


def test_a_textfile_that_the_collector_would_overlook_is_refused(tmp_path: Path) -> None:
    for path, message in ((tmp_path / "a.txt", r"\.prom"), (tmp_path / "none" / "a.prom", "no folder")):
        with pytest.raises(InputError, match=message):
            check_textfile(path)
    check_textfile(tmp_path / "a.prom")


def test_looks_are_kept_in_order_and_one_of_the_same_moment_replaces_the_other(tmp_path: Path) -> None:
    home = Home(tmp_path)
    later = NOW + timedelta(days=40)
    record(home, [look(at_most("score_psi", 0.1, 0.25), at=later)])
    record(home, [look(at_most("score_psi", 0.3, 0.25))])
    record(home, [look(at_most("score_psi", 0.2, 0.25), unknown("n", "none"))])
    rows = read_history(home, "risk").to_pylist()
    assert [(row["at"], row["check"], row["value"]) for row in rows] == [
        (NOW, "score_psi", 0.2),
        (NOW, "n", None),
        (later, "score_psi", 0.1),
    ]
    assert [row["state"] for row in rows] == ["ok", "unknown", "ok"]
    assert read_history(home, "risk", later).num_rows == 1
    assert read_history(home, "other").num_rows == 0


def test_a_damaged_history_is_named(tmp_path: Path) -> None:
    home = Home(tmp_path)
    record(home, [look(figure("n", 1))])
    (home.monitoring / "risk" / "2026-05.parquet").write_bytes(b"nonsense")
    with pytest.raises(NotReady, match="Move it away"):
        record(home, [look(figure("n", 1))])


def test_every_series_of_the_dashboard_is_exported_under_that_name() -> None:
    dashboard = json.loads(DASHBOARD.read_text())
    queries = " ".join(target["expr"] for panel in dashboard["panels"] for target in panel["targets"])
    queries += dashboard["templating"]["list"][1]["query"]["query"]
    families = {family.name for family in MonitorMetrics().registry.collect()}
    used = set(re.findall(r"qanchor_monitor_\w+", queries))
    assert used <= families
    assert families - used == {"qanchor_monitor_unknown_checks"}
    positions = [tuple(panel["gridPos"].values()) for panel in dashboard["panels"]]
    assert len(positions) == len(set(positions))


def test_every_check_of_the_dashboard_is_one_that_monitoring_makes(healthy: Service) -> None:
    made = {check.name for check in healthy.look(45).checks}
    shown = set(re.findall(r'check=\\?"(\w+)\\?"', DASHBOARD.read_text()))
    assert shown
    assert shown <= made
