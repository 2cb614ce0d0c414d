"""`qanchor-cli audience`: lists of users described, judged, kept and combined."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.audience.options import SearchOptions
from cli.groups import command_group, with_options
from cli.output import JsonOption, print_json, print_table
from cli.scenarios import OutOption
from qanchor.site import Site

if TYPE_CHECKING:
    from qanchor.audience.algebra import Operation

app = command_group("audience", "Search, judge, save and combine audiences.")
NamesArgument = Annotated[
    list[str], typer.Argument(metavar="NAME", help="Name of an audience, or NAME@VERSION.")
]
NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="Name of an audience, or NAME@VERSION.")]
IntoOption = Annotated[str, typer.Option("--into", metavar="NAME", help="Name of the new audience.")]


@app.command()
@with_options(SearchOptions, without=("include_seeds",), required=("text",))
def describe(options: SearchOptions, out: OutOption = None, as_json: JsonOption = False) -> None:
    """Rank users by words, alone or together with seeds.

    Only words that occur in the event log count. The output compares how many events of the ranked users
    name them with everybody else's: a description that the space does not represent shows no difference.

    Example: qanchor-cli audience describe --scenario takeout --text "orders takeout food" -k 500
    """
    from cli.audience.search import run_search, show_search

    show_search(run_search(options, out), "Audience", out, as_json)


@app.command()
@with_options(SearchOptions, without=("threshold", "include_seeds", "include_eventless"), required=("seeds",))
def quality(
    options: SearchOptions,
    chart: Annotated[Path | None, typer.Option(metavar="FILE", help="File for the lift curve, .png.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Estimate how good a list from these seeds would be.

    Every seed is held out once and looked for among everybody else. Then the list itself is compared with
    the others: how many of its users are as close to a seed as seeds are to each other, and what sets them
    apart.

    Example: qanchor-cli audience quality --scenario takeout --seeds customers.csv -k 1000 --chart lift.png
    """
    from cli.audience.quality import show_quality
    from cli.audience.search import run_search
    from qanchor.errors import InputError

    if chart is not None and (chart.suffix != ".png" or not chart.parent.is_dir()):
        raise InputError(f"--chart {chart} cannot be written", "Name a .png in a folder that exists.")
    show_quality(run_search(options), chart, as_json)


@app.command()
@with_options(SearchOptions)
def save(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of lower-case letters, digits and _.-")],
    options: SearchOptions,
    as_json: JsonOption = False,
) -> None:
    """Search an audience and save it as a new version of a name.

    Everything that a replay needs is saved with it.

    Example: qanchor-cli audience save hungry --scenario takeout --seeds customers.csv -k 1000
    """
    from cli.audience.saved import show_saved
    from cli.audience.search import print_notes, run_search, search_notes
    from qanchor.audience.saved import save_audience

    search = run_search(options)
    saved = save_audience(search.site, name, search.population, search.request, search.result, options.text)
    show_saved(saved, as_json)
    print_notes(search_notes(search))


@app.command(name="list")
def list_all(as_json: JsonOption = False) -> None:
    """List the saved audiences, the newest first.

    Example: qanchor-cli audience list
    """
    from cli.audience.saved import show_versions
    from qanchor.registry.audiences import list_audiences

    show_versions(list_audiences(Site.open().engine), as_json)


@app.command()
def show(name: NameArgument, out: OutOption = None, as_json: JsonOption = False) -> None:
    """Show how a saved audience was made, and its users.

    Example: qanchor-cli audience show hungry --out hungry.csv
    """
    from cli.audience.saved import audience_facts
    from cli.audience.search import print_notes, show_members
    from qanchor.audience.saved import read_members
    from qanchor.registry.audiences import find_audience
    from qanchor.user_files import check_result_file, write_result

    site = Site.open()
    if out is not None:
        check_result_file(out)
    saved = find_audience(site.engine, name)
    members, facts = read_members(site, saved), audience_facts(saved)
    if out is not None:
        write_result(members, out)
        print_notes([f"wrote {members.num_rows:,} rows to {out}"])
    if as_json:
        print_json({**facts, "users": members.to_pylist()})
        return
    print_table("Audience", [{"what": name, "value": value} for name, value in facts.items()])
    show_members(members, "Users")


@app.command()
def replay(name: NameArgument, as_json: JsonOption = False) -> None:
    """Repeat the search of a saved audience, and show what changed.

    Example: qanchor-cli audience replay hungry
    """
    from cli.audience.saved import show_replay
    from qanchor.audience.saved import replay as repeat_search

    show_replay(repeat_search(Site.open(), name), as_json)


@app.command()
def union(names: NamesArgument, into: IntoOption, as_json: JsonOption = False) -> None:
    """Save the users of any of several audiences as a new one.

    Example: qanchor-cli audience union hungry shoppers --into both
    """
    _combine("union", names, into, as_json)


@app.command()
def intersect(names: NamesArgument, into: IntoOption, as_json: JsonOption = False) -> None:
    """Save the users of all of several audiences as a new one.

    Example: qanchor-cli audience intersect hungry shoppers --into hungry-shoppers
    """
    _combine("intersect", names, into, as_json)


@app.command()
def subtract(names: NamesArgument, into: IntoOption, as_json: JsonOption = False) -> None:
    """Save the users of the first audience that no other one has.

    Example: qanchor-cli audience subtract hungry last-month --into fresh
    """
    _combine("subtract", names, into, as_json)


@app.command()
def overlap(names: NamesArgument, as_json: JsonOption = False) -> None:
    """Show how many users each pair of audiences shares.

    Example: qanchor-cli audience overlap hungry shoppers
    """
    from cli.audience.saved import show_overlaps
    from qanchor.audience.algebra import compare

    show_overlaps(compare(Site.open(), names), as_json)


def _combine(operation: "Operation", names: list[str], into: str, as_json: bool) -> None:
    from cli.audience.saved import show_saved
    from qanchor.audience.algebra import combine

    show_saved(combine(Site.open(), operation, names, into), as_json)
