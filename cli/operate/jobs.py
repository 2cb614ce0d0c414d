"""`qanchor-cli jobs`: what runs, what ran, and stopping it."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.groups import command_group
from cli.output import JsonOption, print_json, print_table
from qanchor.site import Site

if TYPE_CHECKING:
    from qanchor.registry.jobs import JobView

app = command_group("jobs", "List, show and cancel jobs.")

JobArgument = Annotated[int, typer.Argument(metavar="JOB", help="Number of a job, from `jobs list`.")]


@app.command("list")
def list_jobs(
    limit: Annotated[int, typer.Option(min=1, help="Number of jobs, newest first.")] = 20,
    json: JsonOption = False,
) -> None:
    """List the newest jobs with their state and progress.

    Example: qanchor-cli jobs list --limit 5
    """
    from qanchor.registry.jobs import list_jobs as newest

    jobs = newest(Site.open().engine, limit)
    if json:
        print_json([_as_json(job) for job in jobs])
        return
    if not jobs:
        typer.echo("no job has run yet")
        return
    print_table("Jobs", [_row(job) for job in jobs])


@app.command()
def show(job: JobArgument, json: JsonOption = False) -> None:
    """Show a job: its options, shards, workers and skipped users.

    Example: qanchor-cli jobs show 12
    """
    from qanchor.registry.jobs import find_job

    found = find_job(Site.open().engine, job)
    if json:
        print_json(_as_json(found))
        return
    lines = {**_row(found), "error": found.error, **{str(k): v for k, v in found.parameters.items()}}
    width = max(map(len, lines))
    for name, value in lines.items():
        if value not in (None, ""):
            shown = ", ".join(map(str, value)) if isinstance(value, list) else value
            typer.echo(f"{name:{width}}  {shown}")
    if found.shards:
        waiting = found.shards - found.shards_done - len(found.workers)
        typer.echo(
            f"{'shards':{width}}  {found.shards_done:,} of {found.shards:,} done, {max(0, waiting):,} waiting"
        )
    for number, owner, attempts in found.workers:
        typer.echo(f"{'worker':{width}}  {owner} has shard {number}, attempt {attempts}")
    for user, reason in list(found.set_aside.items())[:20]:
        typer.echo(f"{'set aside':{width}}  {user}: {reason}")


@app.command()
def cancel(job: JobArgument, json: JsonOption = False) -> None:
    """Cancel a job.

    Its workers stop within seconds, and its results are not used.

    Example: qanchor-cli jobs cancel 12
    """
    from qanchor.registry.jobs import cancel_job

    cancelled = cancel_job(Site.open().engine, job)
    if json:
        print_json(_as_json(cancelled))
        return
    typer.echo(f"job {job} is cancelled")


def _row(job: "JobView") -> dict[str, Any]:
    share = f"{job.done / job.total:.0%}" if job.total else "-"
    return {
        "job": job.id,
        "kind": job.kind,
        "state": job.state,
        "done": share if job.state != "done" else "100%",
        "started": f"{job.started_at:%Y-%m-%d %H:%M:%S}",
        "took": _took(job),
        "workers": len(job.workers),
    }


def _took(job: "JobView") -> str:
    seconds = ((job.finished_at or job.heartbeat_at) - job.started_at).total_seconds()
    return f"{seconds:,.1f} s" if seconds < 600 else f"{seconds / 60:,.0f} min"


def _as_json(job: "JobView") -> dict[str, Any]:
    return {
        "job": job.id,
        "kind": job.kind,
        "state": job.state,
        "done": job.done,
        "total": job.total,
        "started_at": job.started_at,
        "heartbeat_at": job.heartbeat_at,
        "finished_at": job.finished_at,
        "error": job.error,
        "parameters": job.parameters,
        "shards": job.shards,
        "shards_done": job.shards_done,
        "workers": [{"shard": n, "owner": owner, "attempt": tries} for n, owner, tries in job.workers],
        "set_aside": job.set_aside,
    }
