"""`qanchor-cli monitor`: drift, calibration, label delay and freshness of what is in service, with alarms."""

from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.output import JsonOption, print_json, print_table
from cli.scenarios import AllOption, ScenariosOption, VerboseOption, chosen
from cli.stages import working
from cli.watch import MetricsPortOption, WatchOption, run_until_signal
from qanchor.site import Site

if TYPE_CHECKING:
    from qanchor.monitoring.checks import Check
    from qanchor.monitoring.monitor import ScenarioHealth
    from qanchor.monitoring.records import MonitorMetrics

_ALARM = 1
_MARKS = {"ok": "ok", "alarm": "ALARM", "unknown": "-"}


def run(
    scenario: ScenariosOption = None,
    every: AllOption = False,
    at: Annotated[
        str | None,
        typer.Option(
            metavar="DATE", help="Moment up to which scores, labels and outcomes count, UTC; default: now."
        ),
    ] = None,
    history: Annotated[
        int, typer.Option(min=0, metavar="LOOKS", help="Show the last N checks instead of a new one.")
    ] = 0,
    watch: WatchOption = None,
    metrics_port: MetricsPortOption = None,
    textfile: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="File for the metrics, .prom, for the textfile collector."),
    ] = None,
    verbose: VerboseOption = False,
    as_json: JsonOption = False,
) -> None:
    """Check drift, calibration and freshness; raise alarms.

    Compares published scores and vectors in service with the champion's test and training rows; with labels,
    once their outcome is known, also the calibration by month and the delay of labels; and the age and
    coverage of vectors and scores. Limits are set under `monitor:` of a scenario in scenarios.yaml. Every
    result is kept. Of several scenarios a matrix of scenarios and checks is shown, with --verbose also every
    value with its limit.

    The exit code is 1 if a value is beyond its limit. A value that cannot be measured raises no alarm.

    Example: qanchor-cli monitor --all
    """
    _check_options(watch, metrics_port, textfile, past=at is not None or history > 0)
    site = Site.open()
    names = _names(site, scenario, every)
    if history:
        _show_history(site, names, history, as_json)
        return
    if watch is not None:
        _watch(site, names, watch, metrics_port, textfile, as_json)
        return
    from qanchor.monitoring.records import MonitorMetrics
    from qanchor.times import read_moment

    results = _check(site, names, None if at is None else read_moment(at, "--at"), MonitorMetrics(), textfile)
    if as_json:
        print_json(_documents(results))
    else:
        show_results(results, verbose)
    if any(health.alarms for health in results):
        raise typer.Exit(_ALARM)


def _check_options(watch: float | None, metrics_port: int | None, textfile: Path | None, past: bool) -> None:
    from qanchor.errors import InputError

    if watch is None and metrics_port is not None:
        raise InputError("--metrics-port needs --watch", "Give --watch SECONDS, or --textfile.")
    if watch is not None and past:
        raise InputError("--watch checks the present", "Leave out --at and --history.")
    if textfile:
        from qanchor.monitoring.records import check_textfile

        check_textfile(textfile)


def _watch(
    site: Site, names: Sequence[str], seconds: float, port: int | None, textfile: Path | None, as_json: bool
) -> None:
    from qanchor.metrics_server import MetricsServer
    from qanchor.monitoring.records import MonitorMetrics

    metrics, reporter = MonitorMetrics(), _ChangeReporter(as_json)
    if port is not None:
        MetricsServer(port, metrics.registry)
    run_until_signal(lambda: reporter.report(_check(site, names, None, metrics, textfile)), seconds)


def _names(site: Site, scenario: list[str] | None, every: bool) -> list[str]:
    from qanchor.errors import NotReady
    from qanchor.monitoring.monitor import watched_scenarios

    ready = watched_scenarios(site) if every else None
    names = chosen(site.workspace, scenario, every, ready)
    if not names:
        raise NotReady("no scenario has embeddings or a head yet", "Run `qanchor-cli backfill --all`.")
    return names


def _check(
    site: Site, names: Sequence[str], at: datetime | None, metrics: "MonitorMetrics", textfile: Path | None
) -> "list[ScenarioHealth]":
    """Check the scenarios; keep the results in the history and show them as metrics."""
    from qanchor.monitoring.monitor import monitor
    from qanchor.monitoring.records import record

    with working("checking what is in service"):
        results = monitor(site, names, at)
    record(site.home, results)
    metrics.show(results)
    if textfile:
        metrics.write(textfile)
    return results


class _ChangeReporter:
    """Prints an alarm when it begins and when it ends.

    Args:
        as_json: whether the results are printed as JSON, too, whenever the alarms change.
    """

    def __init__(self, as_json: bool) -> None:
        self._json = as_json
        self._known: set[tuple[str, str]] = set()

    def report(self, results: "Sequence[ScenarioHealth]") -> None:
        """Compare the alarms with those of the last results."""
        alarms = {(health.scenario, check.name): check for health in results for check in health.alarms}
        if alarms.keys() == self._known:
            return
        if self._json:
            print_json(_documents(results))
        for scenario, name in sorted(alarms.keys() - self._known):
            typer.echo(f"alarm: {scenario}: {alarms[scenario, name]}", err=True)
        for scenario, name in sorted(self._known - alarms.keys()):
            typer.echo(f"over: {scenario}: {name}", err=True)
        self._known = set(alarms)


def _documents(results: "Sequence[ScenarioHealth]") -> list[dict[str, Any]]:
    return [asdict(health) | {"alarms": [check.name for check in health.alarms]} for health in results]


def show_results(results: "Sequence[ScenarioHealth]", verbose: bool) -> None:
    """Print a matrix of several scenarios, the values of one or where `verbose` is set, and the alarms."""
    if len(results) > 1:
        _print_matrix(results)
    for health in results if verbose or len(results) == 1 else ():
        rows = [_row(check) for check in health.checks]
        print_table(f"{health.scenario} as of {health.at:%Y-%m-%d %H:%M} UTC", rows)
        if health.calibration:
            print_table(f"{health.scenario}: calibration by month of the labels", health.calibration)
    for health in results:
        for check in health.alarms:
            typer.echo(f"alarm: {health.scenario}: {check}", err=True)


def _print_matrix(results: "Sequence[ScenarioHealth]") -> None:
    """The state of every check, a row each, in a column for each scenario."""
    states = {health.scenario: {check.name: check.state for check in health.checks} for health in results}
    names = dict.fromkeys(name for row in states.values() for name in row)
    rows = [
        {"check": name, **{scenario: _MARKS[row.get(name, "unknown")] for scenario, row in states.items()}}
        for name in names
    ]
    print_table(f"checks as of {results[0].at:%Y-%m-%d %H:%M} UTC; - is unknown", rows, as_written=True)
    typer.echo("--verbose shows every value with its limit")


def _row(check: "Check") -> dict[str, Any]:
    sign = ">=" if check.at_least else "<="
    return {
        "figure": check.name,
        "value": check.value,
        "limit": None if check.limit is None else f"{sign} {check.limit:g}",
        "state": "ALARM" if check.state == "alarm" else check.state,
        "note": check.note,
    }


def _show_history(site: Site, names: Sequence[str], count: int, as_json: bool) -> None:
    """The last results of each scenario: all values as JSON, or the alarms as a table."""
    from qanchor.monitoring.records import read_history

    rows: list[dict[str, Any]] = []
    for name in names:
        recorded = read_history(site.home, name).to_pylist()
        moments = sorted({row["at"] for row in recorded})[-count:]
        rows += [{"scenario": name, **row} for row in recorded if row["at"] in moments]
    if as_json:
        print_json(rows)
        return
    alarms: dict[tuple[str, datetime], list[str]] = {}
    for row in rows:
        of_moment = alarms.setdefault((row["scenario"], row["at"]), [])
        if row["state"] == "alarm":
            of_moment.append(row["check"])
    shown = [
        {"scenario": name, "at": f"{moment:%Y-%m-%d %H:%M}", "alarms": ", ".join(checks) or "none"}
        for (name, moment), checks in alarms.items()
    ]
    print_table("earlier checks; --json has every value", shown)
