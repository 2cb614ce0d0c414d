"""`qanchor-cli demo`: the whole chain, each link by the command that a user would type."""

import json
import shutil
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

    Without --data the input is a simulated world whose best reachable AUC is known. An interrupted
    demo continues where it stopped.

    Example: qanchor-cli demo --data ../shared/benchmarks/online_retail
    """
    from cli.operate.demo_steps import DemoPlan, run_plan

    if data is not None:
        data = data.expanduser().resolve()
        if not (data / "events.parquet").exists():
            raise InputError(
                f"{data} has no events.parquet", "See the README, 'Your own data', for what the folder holds."
            )
        repo = _repository_of(data, repo)
    target = (directory / (data.name if data else "world")).resolve()
    wanted = {"data": str(data), "repo": str(repo), "users": users, "seed": seed, "minutes": minutes}
    if fresh or _asked(target) not in (None, wanted):
        shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True, exist_ok=True)
    (target / "asked.json").write_text(json.dumps(wanted))
    run_plan(DemoPlan(target, data, repo, users, seed, minutes))


def _repository_of(data: Path, repo: Path | None) -> Path:
    chosen = repo or Path(__file__).resolve().parent.parent / "examples" / data.name
    if not (chosen / "modalities.yaml").exists():
        raise InputError(
            f"there is no {chosen / 'modalities.yaml'}",
            "Name the folder of your modalities.yaml and scenarios.yaml with --repo.",
        )
    return chosen.resolve()


def _asked(target: Path) -> object:
    path = target / "asked.json"
    return json.loads(path.read_text()) if path.exists() else None
