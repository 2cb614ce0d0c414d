"""`qanchor-cli simulate`: a simulated world on disk."""

from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from cli.output import JsonOption, print_json, print_table
from cli.stages import progress
from qanchor.site import Site


def run(
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder to write to.", file_okay=False)],
    users: Annotated[int, typer.Option(min=1, max=1_000_000, help="Number of users.")] = 4000,
    seed: Annotated[int, typer.Option(min=0, help="Seed; the same seed gives the same bytes.")] = 7,
    end: Annotated[
        datetime | None,
        typer.Option(formats=["%Y-%m-%d"], metavar="DATE", help="Last day, UTC; default: 2026-08-28."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Write a simulated world: events.parquet, labels/SCENARIO.parquet, ceilings.json, world.json.

    Load the events with `qanchor-cli events load`, the labels with `qanchor-cli labels load`.

    --end moves all dates by the same number of days and changes nothing else.

    Example: qanchor-cli simulate --users 4000 --seed 7 --out world
    """
    import json

    Site.open()  # limits the threads before numpy starts
    from qanchor.simulation.config import WorldPlan
    from qanchor.simulation.world import simulate

    plan = WorldPlan(users=users, seed=seed)
    with progress() as bar:
        world = simulate(plan.ending(end.date()) if end else plan, out, bar)
    ceilings = json.loads((out / "ceilings.json").read_text(encoding="utf-8"))
    if as_json:
        print_json({"world": world, "ceilings": ceilings})
        return
    rows = [
        {
            "scenario": name,
            "positives": c["positive_rate"],
            "best_reachable_auc": c["expected"],
            "rows": c["rows"],
        }
        for name, c in ceilings.items()
    ]
    size = f"{world['users']:,} users, {world['event_rows']:,} events, {world['label_rows']:,} label rows"
    print_table(f"{size} in {out}", rows)
