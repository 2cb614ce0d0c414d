"""`qanchor-cli lookalike`: users like a list of seeds."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.context import open_context
from cli.output import JsonOption, print_json, print_table

if TYPE_CHECKING:
    from qanchor.audience.lookalike import Lookalikes


class _Method(StrEnum):
    centroid = "centroid"
    nearest = "nearest"


_SHOWN = 50


def run(
    scenario: Annotated[str, typer.Option("--scenario", metavar="NAME", help="Whose space is searched.")],
    seeds: Annotated[
        Path,
        typer.Option("--seeds", metavar="FILE", help="One user_id a line, or CSV or Parquet with user_id."),
    ],
    k: Annotated[int, typer.Option("-k", min=1, help="How many users.")] = 100,
    method: Annotated[
        _Method,
        typer.Option(help="centroid: like the seeds as a whole; nearest: like any one of the seeds."),
    ] = _Method.centroid,
    include_seeds: Annotated[
        bool, typer.Option("--include-seeds/--exclude-seeds", help="Whether seeds may be found too.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="Write all rows here, as .csv or .parquet.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Rank the users most like the seeds, as the scenario sees them.

    Seeds that are unknown or given twice are reported. score is the cosine that ranks; distance is
    1 - cosine to the nearest seed.

    Example: qanchor-cli lookalike --scenario takeout --seeds customers.csv -k 1000 --out audience.csv
    """
    from qanchor.audience.index import open_scenario_index
    from qanchor.audience.lookalike import LookalikeRequest, find_lookalikes, read_seeds

    context = open_context()
    context.workspace.scenario(scenario)
    given = read_seeds(seeds)
    served = open_scenario_index(context.home, context.engine, scenario)
    request = LookalikeRequest(given, k, method.value, include_seeds)
    found = find_lookalikes(served.index, request)
    notes = _notes(found)
    if served.is_behind:
        notes.append(
            f"the index is older than the embeddings; run `qanchor-cli index build --scenario {scenario}`"
        )
    if out is not None:
        from qanchor.audience.lookalike import write_lookalikes

        write_lookalikes(found, out)
        notes.append(f"wrote {found.table.num_rows:,} rows to {out}")
    if as_json:
        print_json(_as_json(scenario, served.version, found))
    else:
        rows = found.table.slice(0, _SHOWN).to_pylist()
        print_table("Lookalikes", rows)
        by = f"by {method.value}, among {found.population:,} users"
        typer.echo(f"{scenario}: like {_count(found.seeds, 'seed')} {by}")
        if found.table.num_rows > _SHOWN and out is None:
            notes.append(f"{found.table.num_rows - _SHOWN:,} more rows: --out FILE or --json gives all")
    for note in notes:
        typer.echo(f"note: {note}", err=True)


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _notes(found: "Lookalikes") -> list[str]:
    notes = []
    if found.unknown:
        some = ", ".join(found.unknown[:5]) + (", ..." if len(found.unknown) > 5 else "")
        notes.append(f"{_count(len(found.unknown), 'seed')} without an embedding left out: {some}")
    if found.duplicates:
        notes.append(f"{_count(found.duplicates, 'repeated seed')} left out")
    if found.asked > found.population:
        notes.append(f"only {found.population:,} users can be found, not the {found.asked:,} asked for")
    return notes


def _as_json(scenario: str, version: str, found: "Lookalikes") -> dict[str, object]:
    return {
        "scenario": scenario,
        "index": version,
        "seeds": found.seeds,
        "unknown_seeds": list(found.unknown),
        "duplicate_seeds": found.duplicates,
        "population": found.population,
        "users": found.table.to_pylist(),
    }
