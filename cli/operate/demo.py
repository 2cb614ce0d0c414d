"""`qanchor-cli demo`: the whole chain, each link by the command that a user would type."""

import json
import shutil
from datetime import timedelta
from pathlib import Path
from typing import Annotated

import typer

from qanchor.errors import InputError


def run(
    data: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Folder with events.parquet and labels/SCENARIO.parquet; default: a simulated world.",
        ),
    ] = None,
    repo: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Folder with modalities.yaml and scenarios.yaml for --data; default: examples/NAME.",
        ),
    ] = None,
    directory: Annotated[
        Path, typer.Option("--dir", metavar="DIR", help="Folder of the demo's workspaces.")
    ] = Path(".demo"),
    users: Annotated[int, typer.Option(min=100, help="Number of simulated users.")] = 3_000,
    seed: Annotated[int, typer.Option(help="Seed of the simulation.")] = 7,
    minutes: Annotated[
        float, typer.Option(min=0.05, metavar="MINUTES", help="Minutes of pre-training.")
    ] = 3.0,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Start again; default: continue an interrupted run.")
    ] = False,
) -> None:
    """Stream events through Kafka, train, tune, backfill, search, score and report.

    Without --data the input is a simulated world whose best reachable AUC is known and whose last
    day is yesterday. An interrupted demo continues where it stopped, with the same dates.

    Example: qanchor-cli demo --data ../shared/benchmarks/online_retail
    """
    from cli.operate.demo_steps import DemoPlan, run_plan

    if data is not None:
        data = data.expanduser().resolve()
        if not (data / "events.parquet").exists():
            raise InputError(
                f"{data} has no events.parquet",
                "See 'Your own data' in the README for the files of the folder.",
            )
        repo = _repository_of(data, repo)
    target = (directory / (data.name if data else "world")).resolve()
    options = {"data": str(data), "repo": str(repo), "users": users, "seed": seed, "minutes": minutes}
    end = _begin(target, options, fresh)
    run_plan(DemoPlan(target, data, repo, users, seed, minutes, end))


def _begin(target: Path, options: dict[str, object], fresh: bool) -> str | None:
    """Continue the recorded run of the same options, or start again; the last day of the simulated world."""
    from qanchor.files import write_atomically
    from qanchor.times import now

    record = target / "options.json"
    known = json.loads(record.read_text()) if record.exists() else {}
    # The world is as old as the run that began it; 0.1.0 recorded no end.
    end: str | None = known.pop("end", None)
    if known == options and not fresh:
        return end
    if known or fresh:
        shutil.rmtree(target, ignore_errors=True)
    # The day ends before the demo does, so that no vector is of the future and none is older than its ttl.
    end = f"{now() - timedelta(days=1):%Y-%m-%d}"
    write_atomically(record, json.dumps({**options, "end": end}))
    return end


def _repository_of(data: Path, repo: Path | None) -> Path:
    folder = repo or Path(__file__).resolve().parents[2] / "examples" / data.name
    if not (folder / "modalities.yaml").exists():
        raise InputError(
            f"there is no {folder / 'modalities.yaml'}",
            "Name the folder of your modalities.yaml and scenarios.yaml with --repo.",
        )
    return folder.resolve()
