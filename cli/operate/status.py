"""`qanchor-cli status`: the state of a home on one screen, and the next command."""

from dataclasses import asdict
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import typer

from cli.output import JsonOption, print_json, print_table
from qanchor.site import Site

if TYPE_CHECKING:
    from collections.abc import Mapping

    from qanchor.monitoring.records import LastCheck
    from qanchor.registry.overview import Overview, ScenarioSummary


def run(as_json: JsonOption = False) -> None:
    """Show what is loaded, trained, written and served, and what to do next.

    `old` is a prompt of an earlier model, vectors of an earlier prompt or model, an index of earlier vectors
    or a head that reads another space. Alarms are those of the last `monitor`. `next` is the first command
    that is due.

    Example: qanchor-cli status --json
    """
    from qanchor.registry.losses import find_losses
    from qanchor.registry.overview import read_overview
    from qanchor.times import now

    site = Site.open()
    losses = find_losses(site.engine, site.home)
    overview, checks = read_overview(site.engine, site.workspace), _last_checks(site)
    hint = next_command(overview, checks, {n: s.ttl_days for n, s in site.workspace.scenarios.items()}, now())
    if as_json:
        document = {
            "home": site.home.root,
            **asdict(overview),
            "lost": [asdict(loss) for loss in losses],
            "next": hint,
        }
        for row in document["scenarios"]:
            check = checks.get(row["scenario"])
            row |= {"checked_at": check and check.at, "alarms": check.alarms if check else None}
        print_json(document)
        return
    typer.echo(f"home    {site.home.root}")
    typer.echo(f"events  {_events(overview)}")
    typer.echo(f"model   {_model(overview)}")
    typer.echo("")
    rows = [_row(summary, checks.get(summary.scenario), now()) for summary in overview.scenarios]
    print_table("Scenarios: AUC of the head, age of each part", rows)
    lost = [f"lost: {loss.lost}. {loss.remedy}" for loss in losses]
    for line in (*lost, *_problems(overview, checks), *_jobs(overview)):
        typer.echo(line)
    typer.secho(f"next: {hint}" if hint else "nothing is due", bold=True)


def _last_checks(site: Site) -> "dict[str, LastCheck]":
    if not site.home.monitoring.is_dir():
        return {}
    from qanchor.monitoring.records import last_check

    checks = {name: last_check(site.home, name) for name in site.workspace.scenarios}
    return {name: check for name, check in checks.items() if check}


def _events(overview: "Overview") -> str:
    events = overview.events
    if not events.events:
        return "none"
    return f"{events.events:,} in {events.files:,} files, {events.first_date} .. {events.last_date}"


def _model(overview: "Overview") -> str:
    model = overview.model
    if model is None:
        return "none"
    return f"{model.version}, preset {model.preset}, trained on events before {model.trained_until:%Y-%m-%d}"


def _row(summary: "ScenarioSummary", check: "LastCheck | None", moment: datetime) -> dict[str, Any]:
    def aged(value: str | None, since: datetime | None, is_behind: bool = False) -> str | None:
        parts = (value, _age(since, moment), "old" if is_behind else None) if since else ()
        return " ".join(filter(None, parts)) or None

    labels, vectors, auc = summary.labels, summary.vectors, summary.head_auc
    return {
        "scenario": summary.scenario,
        "labels": None if labels is None else f"{labels:,} {summary.positive_share:.0%}",
        "prompt": aged(None, summary.tuned_at, summary.prompt_is_stale),
        "vectors": aged(f"{vectors:,}" if vectors else None, summary.embedded_at, summary.vectors_are_behind),
        "as_of": aged(None, summary.as_of),
        "space": summary.fingerprint and summary.fingerprint[:6],
        "index": aged(None, summary.indexed_at, summary.index_is_behind),
        "head": aged(f"{auc:.3f}" if auc else None, summary.head_at, summary.head_is_behind),
        "alarms": len(check.alarms) if check else None,
    }


def _age(since: datetime, moment: datetime) -> str:
    """Such as 12m, 7h or 40d."""
    from qanchor.times import as_utc

    seconds = max(0.0, (moment - as_utc(since)).total_seconds())
    for unit, length in (("d", 86_400), ("h", 3_600)):
        if seconds >= length:
            return f"{seconds / length:.0f}{unit}"
    return f"{seconds / 60:.0f}m"


def _problems(overview: "Overview", checks: "Mapping[str, LastCheck]") -> list[str]:
    """What no longer fits together, and the alarms, one line for each."""
    reasons = (
        ("prompt_is_stale", "the prompt was tuned on an earlier model and is not in use"),
        ("vectors_are_behind", "vectors of an earlier prompt or model serve"),
        ("index_is_behind", "the index is of earlier vectors"),
        ("head_is_behind", "the head reads another embedding space and does not score"),
    )
    lines = []
    for field, text in reasons:
        names = [one.scenario for one in overview.scenarios if getattr(one, field)]
        if names:
            lines.append(f"old: {text}: {', '.join(names)}")
    for name, check in checks.items():
        if check.alarms:
            lines.append(f"alarm: {name}: {', '.join(check.alarms)} ({check.at:%Y-%m-%d %H:%M} UTC)")
    return lines


def _jobs(overview: "Overview") -> list[str]:
    """The last job of each kind that is not done."""
    lines = []
    for job in {job.kind: job for job in reversed(overview.jobs)}.values():
        if job.state != "done":
            count = f" {job.done:,}/{job.total:,}" if job.total else ""
            error = f": {job.error}" if job.error else ""
            started = f"{job.started_at:%Y-%m-%d %H:%M} UTC"
            lines.append(f"job: {job.kind} {job.state}{count}, started {started}{error}")
    return lines


def next_command(
    overview: "Overview", checks: "Mapping[str, LastCheck]", ttl_days: "Mapping[str, int]", moment: datetime
) -> str | None:
    """The first command of the chain that is due; None where all is up to date.

    Args:
        overview: state of the home.
        checks: last health check of each scenario that has one.
        ttl_days: number of days for which a scenario's vectors may be served.
        moment: the present, UTC.
    """
    if not overview.events.events:
        return "qanchor-cli events load events.parquet"
    if not overview.scenarios:
        return "add a scenario to scenarios.yaml"
    if overview.model is None:
        return "qanchor-cli pretrain"
    due = (
        ("tune", lambda one: one.prompt_is_stale and one.labels),
        ("backfill", lambda one: not one.vectors or one.vectors_are_behind),
        ("refresh", lambda one: _is_expired(one, overview.events.last_date, ttl_days[one.scenario], moment)),
        ("index build", lambda one: not one.indexed or one.index_is_behind),
        ("head train", lambda one: one.labels and (one.head_at is None or one.head_is_behind)),
        ("monitor", lambda one: one.scenario in checks and checks[one.scenario].alarms),
    )
    for command, applies in due:
        names = [one.scenario for one in overview.scenarios if applies(one)]
        if names:
            every = len(names) == len(overview.scenarios)
            return " ".join(["qanchor-cli", command, *(["--all"] if every else _named(names))])
    return None


def _named(names: list[str]) -> list[str]:
    return [word for name in names for word in ("--scenario", name)]


def _is_expired(summary: "ScenarioSummary", last_date: str | None, ttl_days: int, moment: datetime) -> bool:
    """Whether the vectors are no longer served, and there are later events to make new ones from."""
    from qanchor.times import as_utc

    if summary.as_of is None or last_date is None:
        return False
    as_of = as_utc(summary.as_of)
    return moment > as_of + timedelta(days=ttl_days) and last_date > f"{as_of:%Y-%m-%d}"
