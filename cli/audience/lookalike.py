"""`qanchor-cli lookalike`: users like a list of seeds."""

import typer

from cli.audience.audience_options import (
    CountOption,
    ExcludeOption,
    IncludeEventlessOption,
    IncludeSeedsOption,
    MethodName,
    MethodOption,
    OutOption,
    ScenarioOption,
    SeedsOption,
    ThresholdOption,
    WhereOption,
    count,
    describe_choice,
    find_notes,
    found_as_json,
    make_rules,
)
from cli.audience.audience_show import show_found
from cli.output import JsonOption, print_json
from qanchor.site import Site

_SHOWN = 50


def run(
    scenario: ScenarioOption,
    seeds: SeedsOption,
    k: CountOption = None,
    threshold: ThresholdOption = None,
    method: MethodOption = MethodName.auto,
    where: WhereOption = None,
    exclude: ExcludeOption = None,
    include_seeds: IncludeSeedsOption = False,
    include_eventless: IncludeEventlessOption = False,
    out: OutOption = None,
    as_json: JsonOption = False,
) -> None:
    """Rank the users most like the seeds, as the scenario sees them.

    Seeds that are unknown, without events or given twice are reported. What score is depends on the method;
    distance is 1 - cosine to the nearest seed. How good the list is: qanchor-cli audience quality.

    Example: qanchor-cli lookalike --scenario takeout --seeds customers.csv -k 1000 --out audience.csv
    """
    from qanchor.audience.lookalike import LookalikeRequest, find_lookalikes
    from qanchor.audience.population import open_population
    from qanchor.user_files import check_result_file, read_user_list, write_result

    site = Site.open()
    site.workspace.scenario(scenario)
    if out is not None:
        check_result_file(out)
    rules = make_rules(where, exclude, include_seeds, include_eventless)
    request = LookalikeRequest(read_user_list(seeds, "seed"), k, method.value, threshold, rules)
    population = open_population(site, scenario)
    found = find_lookalikes(population, request)
    notes = find_notes(found, population, request)
    if out is not None:
        write_result(found.table, out)
        notes.append(f"wrote {found.table.num_rows:,} rows to {out}")
    if as_json:
        print_json(found_as_json(found, population))
    else:
        show_found(found.table, "Lookalikes")
        if found.seeds and found.choice:
            like = f"like {count(len(found.seeds.rows), 'seed')} among {found.candidates.population:,} users"
            typer.echo(f"{scenario}: {like}, {describe_choice(found.choice)}")
        if found.table.num_rows > _SHOWN and out is None:
            notes.append(f"{found.table.num_rows - _SHOWN:,} more rows: --out FILE or --json gives all")
    for note in notes:
        typer.echo(f"note: {note}", err=True)
