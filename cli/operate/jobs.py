"""`qanchor-cli jobs`: long commands that run or ran, and stopping one."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.groups import command_group
from cli.output import JsonOption, print_json, print_table
from qanchor.site import Site

if TYPE_CHECKING:
    from qanchor.registry.jobs import JobView

app = command_group("jobs", "List, show and cancel jobs.")

JobArgument = Annotated[int, typer.Argument(metavar="JOB", help="Number of a job, from `jobs list`.")]

_SHOWN_ASIDE = 20


@app.command("list")
def list_jobs(
    limit: Annotated[int, typer.Option(min=1, help="Number of jobs, newest first.")] = 20,
    as_json: JsonOption = False,
) -> None:
    """List the newest jobs with their state, progress and results.

    Jobs come from pretrain, tune, backfill, refresh, index build and head train. A job of a killed process
    is shown as interrupted.

    Example: qanchor-cli jobs list --limit 5
    """
    from qanchor.registry.jobs import list_jobs as newest

    jobs = newest(Site.open().engine, limit)
    if as_json:
        print_json([_as_json(job) for job in jobs])
        return
    if not jobs:
        typer.echo("no job has run yet")
        return
    print_table("Jobs", [_row(job) for job in jobs])


@app.command()
def show(job: JobArgument, as_json: JsonOption = False) -> None:
    """Show a job: options, results, shards, workers, skipped users.

    Example: qanchor-cli jobs show 12
    """
    from qanchor.registry.jobs import find_job

    view = find_job(Site.open().engine, job)
    if as_json:
        print_json(_as_json(view))
        return
    lines = [*_row(view).items(), ("error", view.error), *view.parameters.items()]
    lines += [("made", made) for made in view.made[1:]]
    if view.shards:
        waiting = max(0, view.shards - view.shards_done - len(view.workers))
        lines.append(("shards", f"{view.shards_done:,} of {view.shards:,} done, {waiting:,} waiting"))
    for number, owner, attempt in view.workers:
        lines.append(("worker", f"{owner} has shard {number}, attempt {attempt}"))
    for user, reason in list(view.set_aside.items())[:_SHOWN_ASIDE]:
        lines.append(("set aside", f"{user}: {reason}"))
    width = max(len(name) for name, _ in lines)
    for name, value in lines:
        if value not in (None, ""):
            text = ", ".join(map(str, value)) if isinstance(value, list) else value
            typer.echo(f"{name:{width}}  {text}")


@app.command()
def cancel(job: JobArgument, as_json: JsonOption = False) -> None:
    """Cancel a backfill.

    Its workers stop within seconds, and its results are not used.

    Example: qanchor-cli jobs cancel 12
    """
    from qanchor.registry.jobs import cancel_job

    cancelled = cancel_job(Site.open().engine, job)
    if as_json:
        print_json(_as_json(cancelled))
        return
    typer.echo(f"job {job} is cancelled")


def _row(job: "JobView") -> dict[str, Any]:
    share = f"{job.done / job.total:.0%}" if job.total else "-"
    more = f" and {len(job.made) - 1} more" if len(job.made) > 1 else ""
    return {
        "job": job.id,
        "kind": job.kind,
        "state": job.state,
        "done": share if job.state != "done" else "100%",
        "started": f"{job.started_at:%Y-%m-%d %H:%M:%S}",
        "took": f"{job.seconds:,.1f} s" if job.seconds < 600 else f"{job.seconds / 60:,.0f} min",
        "workers": len(job.workers),
        "made": job.made[0] + more if job.made else "-",
    }


def _as_json(job: "JobView") -> dict[str, Any]:
    values = asdict(job)
    workers = [{"shard": n, "owner": owner, "attempt": attempt} for n, owner, attempt in job.workers]
    return {"job": values.pop("id"), **values, "workers": workers}
