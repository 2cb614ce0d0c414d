"""`qanchor-cli monitor`: drift, calibration, label delay and freshness of what is in service, with alarms."""

from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.output import JsonOption, print_json, print_table
from cli.scenarios import AllOption, ScenariosOption, chosen
from cli.watch import run_until_signal
from qanchor.site import Site

if TYPE_CHECKING:
    from qanchor.monitoring.export import MonitorMetrics
    from qanchor.monitoring.monitor import ScenarioHealth

_ALARM = 1


def run(
    scenario: ScenariosOption = None,
    every: AllOption = False,
    at: Annotated[
        datetime | None,
        typer.Option(help="Moment up to which scores, labels and outcomes count, UTC; default: now."),
    ] = None,
    history: Annotated[
        int, typer.Option(min=0, metavar="LOOKS", help="Show the last N checks instead of a new one.")
    ] = 0,
    watch: Annotated[
        float | None, typer.Option(min=1, metavar="SECONDS", help="Repeat every N seconds until SIGTERM.")
    ] = None,
    metrics_port: Annotated[
        int | None,
        typer.Option(
            metavar="PORT", help="With --watch: serve Prometheus metrics on this port of 127.0.0.1."
        ),
    ] = None,
    textfile: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="File for the metrics, .prom, for the textfile collector."),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Check drift, calibration and freshness; raise alarms.

    Compared with the champion's own test and training rows: the distribution of published scores and of
    vectors. With labels, once their outcome is known: calibration by month, and how late labels are. Beside
    them age and coverage of vectors and scores. Limits are `monitor:` of the scenario in scenarios.yaml.
    Every look is kept.

    Exits with 1 where a figure is beyond its limit; a figure that cannot be measured is no alarm.

    Example: qanchor-cli monitor --all
    """
    from qanchor.errors import InputError

    if watch is None and metrics_port is not None:
        raise InputError("--metrics-port serves only with --watch", "Give --watch SECONDS, or --textfile.")
    if watch is not None and (at is not None or history):
        raise InputError("--watch looks at the present", "Leave out --at and --history.")
    if textfile:
        from qanchor.monitoring.export import check_textfile

        check_textfile(textfile)
    site = Site.open()
    names = _names(site, scenario, every)
    if history:
        _show_history(site, names, history, json)
        return
    if watch is not None:
        _watch(site, names, watch, metrics_port, textfile, json)
        return
    found = _look(site, names, (at if at.tzinfo else at.replace(tzinfo=UTC)) if at else None)
    if textfile:
        _metrics(found).write(textfile)
    _show(found, json)
    if any(health.alarms for health in found):
        raise typer.Exit(_ALARM)


def _names(site: Site, scenario: list[str] | None, every: bool) -> list[str]:
    from qanchor.errors import NotReady
    from qanchor.monitoring.monitor import watched_scenarios

    ready = watched_scenarios(site) if every else None
    names = chosen(site.workspace, scenario, every, ready)
    if not names:
        raise NotReady("no scenario has embeddings or a head yet", "Run `qanchor-cli backfill --all`.")
    return names


def _look(site: Site, names: Sequence[str], at: datetime | None) -> "list[ScenarioHealth]":
    from qanchor.monitoring.history import record
    from qanchor.monitoring.monitor import monitor

    found = monitor(site, names, at)
    record(site.home, found)
    return found


def _metrics(found: "Sequence[ScenarioHealth]" = ()) -> "MonitorMetrics":
    from qanchor.monitoring.export import MonitorMetrics

    metrics = MonitorMetrics()
    metrics.show(found)
    return metrics


def _watch(
    site: Site, names: Sequence[str], seconds: float, port: int | None, textfile: Path | None, json: bool
) -> None:
    """Check every N seconds; an alarm is reported when it begins and when it ends."""
    from qanchor.metrics_server import MetricsServer

    metrics, known = _metrics(), set[tuple[str, str]]()
    if port is not None:
        MetricsServer(port, metrics.registry)

    def step() -> None:
        nonlocal known
        checked = _look(site, names, None)
        metrics.show(checked)
        if textfile:
            metrics.write(textfile)
        known = _say_changes(checked, known, json)

    run_until_signal(step, seconds)


def _say_changes(
    found: "Sequence[ScenarioHealth]", known: set[tuple[str, str]], json: bool
) -> set[tuple[str, str]]:
    alarms = {(health.scenario, check.name): check for health in found for check in health.alarms}
    if alarms.keys() == known:
        return known
    if json:
        print_json(_documents(found))
    for scenario, name in sorted(alarms.keys() - known):
        typer.echo(f"alarm: {scenario}: {alarms[scenario, name]}", err=True)
    for scenario, name in sorted(known - alarms.keys()):
        typer.echo(f"over: {scenario}: {name}", err=True)
    return set(alarms)


def _documents(found: "Sequence[ScenarioHealth]") -> list[dict[str, Any]]:
    return [asdict(health) | {"alarms": [check.name for check in health.alarms]} for health in found]


def _show(found: "Sequence[ScenarioHealth]", json: bool) -> None:
    if json:
        print_json(_documents(found))
        return
    for health in found:
        rows = [
            {
                "figure": check.name,
                "value": check.value,
                "limit": None
                if check.limit is None
                else f"{'>=' if check.at_least else '<='} {check.limit:g}",
                "state": "ALARM" if check.state == "alarm" else check.state,
                "note": check.note,
            }
            for check in health.checks
        ]
        print_table(f"{health.scenario} as of {health.at:%Y-%m-%d %H:%M} UTC", rows)
        if health.calibration:
            print_table(f"{health.scenario}: calibration by month of the labels", health.calibration)
    for health in found:
        for check in health.alarms:
            typer.echo(f"alarm: {health.scenario}: {check}", err=True)


def _show_history(site: Site, names: Sequence[str], looks: int, json: bool) -> None:
    from qanchor.monitoring.history import read_history

    kept: list[dict[str, Any]] = []
    for name in names:
        rows = read_history(site.home, name).to_pylist()
        moments = sorted({row["at"] for row in rows})[-looks:]
        kept += [{"scenario": name, **row} for row in rows if row["at"] in moments]
    if json:
        print_json(kept)
        return
    alarms: dict[tuple[str, datetime], list[str]] = {}
    for row in kept:
        found = alarms.setdefault((row["scenario"], row["at"]), [])
        if row["state"] == "alarm":
            found.append(row["check"])
    shown = [
        {"scenario": name, "at": f"{moment:%Y-%m-%d %H:%M}", "alarms": ", ".join(found) or "none"}
        for (name, moment), found in alarms.items()
    ]
    print_table("earlier looks; --json has every figure", shown)
