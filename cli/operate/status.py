"""`qanchor-cli status`: the state of a home on one screen."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import typer

from cli.output import JsonOption, print_json, print_table
from qanchor.site import Site

if TYPE_CHECKING:
    from qanchor.registry.overview import Overview, ScenarioSummary


def run(as_json: JsonOption = False) -> None:
    """Show what is loaded, trained, written and served, and what to do next.

    Example: qanchor-cli status --json
    """
    from qanchor.registry.overview import read_overview

    site = Site.open()
    overview = read_overview(site.engine, site.workspace)
    if as_json:
        print_json({"home": site.home.root, **asdict(overview)})
        return
    typer.echo(f"home    {site.home.root}")
    typer.echo(f"events  {_events(overview)}")
    typer.echo(f"model   {_model(overview)}")
    typer.echo("")
    print_table("Scenarios", [_row(summary) for summary in overview.scenarios])
    if any(s.prompt_is_stale or s.index_is_behind or s.head_is_behind for s in overview.scenarios):
        typer.echo("old: made from an earlier model or earlier vectors; run its command again")
    for job in {job.kind: job for job in reversed(overview.jobs)}.values():
        if job.state != "done":
            count = f" {job.done:,}/{job.total:,}" if job.total else ""
            error = f": {job.error}" if job.error else ""
            started = f"{job.started_at:%Y-%m-%d %H:%M} UTC"
            typer.echo(f"job     {job.kind} {job.state}{count}, started {started}{error}")
    hint = _next_step(overview)
    if hint:
        typer.secho(f"next    {hint}", bold=True)


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


def _row(summary: "ScenarioSummary") -> dict[str, Any]:
    labels = summary.labels
    return {
        "scenario": summary.scenario,
        "labels": None if labels is None else f"{labels:,} {summary.positive_share:.0%}",
        "tuned": _age(summary.prompt, summary.prompt_is_stale),
        "vectors": summary.vectors,
        "as_of": summary.as_of and f"{summary.as_of:%Y-%m-%d}",
        "space": summary.fingerprint and summary.fingerprint[:6],
        "index": _age(summary.indexed, summary.index_is_behind),
        "auc": summary.head_auc and f"{summary.head_auc:.3f}{' old' if summary.head_is_behind else ''}",
    }


def _age(value: object, is_behind: bool) -> str | None:
    return ("old" if is_behind else "yes") if value else None


def _next_step(overview: "Overview") -> str | None:
    """The first command of the chain that has not run."""
    scenarios = overview.scenarios
    steps = (
        (not overview.events.events, "qanchor-cli events load FILE, or qanchor-cli consume"),
        (not scenarios, "add a scenario to scenarios.yaml"),
        (overview.model is None, "qanchor-cli pretrain"),
        (not any(s.vectors for s in scenarios), "qanchor-cli backfill --all"),
        (not any(s.indexed for s in scenarios), "qanchor-cli index build --all"),
    )
    return next((hint for is_due, hint in steps if is_due), None)
