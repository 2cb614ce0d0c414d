"""`qanchor-cli audience`: lists of users described, judged, kept and combined."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.audience.audience_options import (
    CountOption,
    ExcludeOption,
    IncludeEventlessOption,
    IncludeSeedsOption,
    MaybeSeedsOption,
    MethodName,
    MethodOption,
    OutOption,
    ScenarioOption,
    SeedsOption,
    ThresholdOption,
    WhereOption,
    count,
    make_rules,
)
from cli.audience.audience_show import show_overlaps, show_quality, show_replay, show_search, show_versions
from cli.groups import command_group
from cli.output import JsonOption, print_json, print_table
from qanchor.site import Site

if TYPE_CHECKING:
    from qanchor.registry.tables import Audience
    from qanchor.site import Site

app = command_group("audience", "Describe, judge, keep and combine audiences.")
NamesArgument = Annotated[list[str], typer.Argument(metavar="NAME...", help="NAME or NAME@VERSION.")]
NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="NAME or NAME@VERSION.")]
TextOption = Annotated[
    str | None, typer.Option("--text", metavar="WORDS", help="Who is wanted, in words.", show_default=False)
]
WeightOption = Annotated[
    float, typer.Option("--text-weight", help="Of the words against the seeds, between 0 and 1.")
]
IntoOption = Annotated[str, typer.Option("--into", metavar="NAME", help="Name of the new audience.")]


@app.command()
def describe(
    scenario: ScenarioOption,
    text: Annotated[str, typer.Option("--text", metavar="WORDS", help="Who is wanted, in words.")],
    seeds: MaybeSeedsOption = None,
    text_weight: WeightOption = 0.5,
    k: CountOption = None,
    threshold: ThresholdOption = None,
    method: MethodOption = MethodName.auto,
    where: WhereOption = None,
    exclude: ExcludeOption = None,
    include_eventless: IncludeEventlessOption = False,
    out: OutOption = None,
    as_json: JsonOption = False,
) -> None:
    """Rank users by words, alone or together with seeds.

    The words that the log knows are what counts. How many of the found users have events that name them is
    shown beside everybody else: a description that the space does not hold shows there.

    Example: qanchor-cli audience describe --scenario takeout --text "orders takeout food" -k 500
    """
    from cli.audience.audience_search import Search

    rules = make_rules(where, exclude, False, include_eventless)
    search = Search.open(Site.open(), scenario, out)
    found = search.find(search.request(seeds, k, method.value, threshold, rules, text_weight), text)
    show_search(search, found, out, as_json)


@app.command()
def quality(
    scenario: ScenarioOption,
    seeds: SeedsOption,
    text: TextOption = None,
    text_weight: WeightOption = 0.5,
    k: CountOption = None,
    method: MethodOption = MethodName.auto,
    where: WhereOption = None,
    exclude: ExcludeOption = None,
    chart: Annotated[
        Path | None, typer.Option("--chart", metavar="FILE", help="Write the lift curve here, as .png.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Say how good the list of these seeds would be, before money is spent on it.

    Every seed is held out once and looked for among everybody else. Then the list itself is compared with
    the others: how many of its users lie as close to a seed as seeds to each other, and what sets them apart.

    Example: qanchor-cli audience quality --scenario takeout --seeds customers.csv -k 1000 --chart lift.png
    """
    from cli.audience.audience_search import Search
    from qanchor.errors import InputError

    if chart is not None and (chart.suffix != ".png" or not chart.parent.is_dir()):
        raise InputError(f"--chart {chart} cannot be written", "Name a .png in a folder that exists.")
    search = Search.open(Site.open(), scenario)
    request = search.request(
        seeds, k, method.value, None, make_rules(where, exclude, False, False), text_weight
    )
    show_quality(search, search.find(request, text), chart, as_json)


@app.command()
def save(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Lower-case letters, digits and _.-")],
    scenario: ScenarioOption,
    seeds: MaybeSeedsOption = None,
    text: TextOption = None,
    text_weight: WeightOption = 0.5,
    k: CountOption = None,
    threshold: ThresholdOption = None,
    method: MethodOption = MethodName.auto,
    where: WhereOption = None,
    exclude: ExcludeOption = None,
    include_seeds: IncludeSeedsOption = False,
    include_eventless: IncludeEventlessOption = False,
    as_json: JsonOption = False,
) -> None:
    """Find an audience and keep it as a new version of a name, with all that it takes to find it again.

    Example: qanchor-cli audience save hungry --scenario takeout --seeds customers.csv -k 1000
    """
    from cli.audience.audience_search import Search
    from qanchor.audience.saved import save_audience

    site = Site.open()
    search = Search.open(site, scenario)
    rules = make_rules(where, exclude, include_seeds, include_eventless)
    found = search.find(search.request(seeds, k, method.value, threshold, rules, text_weight), text)
    saved = save_audience(site, name, search.population, found.request, found.found, text)
    _say_saved(saved, as_json)
    for note in search.notes(found):
        typer.echo(f"note: {note}", err=True)


@app.command(name="list")
def list_all(as_json: JsonOption = False) -> None:
    """List the saved audiences, the newest first.

    Example: qanchor-cli audience list
    """
    from qanchor.registry.audiences import list_audiences

    show_versions(list_audiences(Site.open().engine), as_json)


@app.command()
def show(name: NameArgument, out: OutOption = None, as_json: JsonOption = False) -> None:
    """Show a saved audience: what it was made from, and who is in it.

    Example: qanchor-cli audience show hungry --out hungry.csv
    """
    from cli.audience.audience_show import audience_facts, show_found
    from qanchor.audience.saved import read_members
    from qanchor.registry.audiences import find_audience
    from qanchor.user_files import check_result_file, write_result

    site = Site.open()
    if out is not None:
        check_result_file(out)
    saved = find_audience(site.engine, name)
    members = read_members(site, saved)
    if out is not None:
        write_result(members, out)
        typer.echo(f"note: wrote {members.num_rows:,} rows to {out}", err=True)
    if as_json:
        print_json({**audience_facts(saved), "users": members.to_pylist()})
        return
    print_table("Audience", [{"what": k, "value": v} for k, v in audience_facts(saved).items()])
    show_found(members, "Users")


@app.command()
def replay(name: NameArgument, as_json: JsonOption = False) -> None:
    """Find a saved audience again: the same users, or what has changed since.

    Example: qanchor-cli audience replay hungry
    """
    from qanchor.audience.saved import replay as replay_saved

    show_replay(replay_saved(Site.open(), name), as_json)


@app.command()
def union(names: NamesArgument, into: IntoOption, as_json: JsonOption = False) -> None:
    """Save the users of any of several audiences as a new one.

    Example: qanchor-cli audience union hungry shoppers --into both
    """
    _combine(Site.open(), "union", names, into, as_json)


@app.command()
def intersect(names: NamesArgument, into: IntoOption, as_json: JsonOption = False) -> None:
    """Save the users of all of several audiences as a new one.

    Example: qanchor-cli audience intersect hungry shoppers --into hungry-shoppers
    """
    _combine(Site.open(), "intersect", names, into, as_json)


@app.command()
def subtract(names: NamesArgument, into: IntoOption, as_json: JsonOption = False) -> None:
    """Save the users of the first audience who are in none of the others as a new one.

    Example: qanchor-cli audience subtract hungry last-month --into fresh
    """
    _combine(Site.open(), "subtract", names, into, as_json)


@app.command()
def overlap(names: NamesArgument, as_json: JsonOption = False) -> None:
    """Say how many users each pair of audiences shares.

    Example: qanchor-cli audience overlap hungry shoppers
    """
    from qanchor.audience.algebra import compare

    show_overlaps(compare(Site.open(), names), as_json)


def _combine(site: "Site", operation: str, names: list[str], into: str, as_json: bool) -> None:
    from qanchor.audience.algebra import OPERATIONS, combine

    chosen = next(known for known in OPERATIONS if known == operation)
    _say_saved(combine(site, chosen, names, into), as_json)


def _say_saved(saved: "Audience", as_json: bool) -> None:
    if as_json:
        from cli.audience.audience_show import audience_facts

        print_json(audience_facts(saved))
    else:
        typer.echo(f"saved {saved.name}@{saved.version}: {count(saved.rows, 'user')}")
