"""`qanchor-cli verify`: do offline store, online store and index hold the same vectors?"""

from typing import TYPE_CHECKING, Annotated

import typer

from cli.context import open_context
from cli.output import JsonOption, print_json, print_table
from cli.scenarios import AllOption, ScenariosOption, chosen

if TYPE_CHECKING:
    from cli.context import Context
    from qanchor.embedding.publish import Surroundings
    from qanchor.embedding.verify import SinkCheck


def run(
    scenario: ScenariosOption = None,
    every: AllOption = False,
    repair: Annotated[
        bool,
        typer.Option("--repair", help="Write the online store and build the index again."),
    ] = False,
    json: JsonOption = False,
) -> None:
    """Compare every vector of the three stores with the manifest that serves, by count and by hash.

    The offline store is the truth: --repair brings the others back to it. Where the offline store itself is
    damaged, only a backfill helps. The exit code is 3 while anything differs.

    Example: qanchor-cli verify --all --repair
    """
    from qanchor.embedding.publish import Surroundings
    from qanchor.embedding.verify import verify
    from qanchor.errors import StateError
    from qanchor.registry.manifests import active_manifests
    from qanchor.storage.features import FeatureRepository

    context = open_context()
    ready = list(active_manifests(context.engine, list(context.workspace.scenarios)))
    names = chosen(context.workspace, scenario, every, ready)
    place = Surroundings(context.home, context.engine, FeatureRepository(context.workspace, context.home))
    checks = [check for name in names for check in verify(name, place)]
    if repair and not all(check.agrees for check in checks):
        _repair(checks, place, context)
        checks = [check for name in names for check in verify(name, place)]
    _show(checks, json)
    wrong = [check for check in checks if not check.agrees]
    if wrong:
        where = ", ".join(f"{check.scenario} {check.sink}" for check in wrong)
        raise StateError(f"stores differ: {where}", wrong[0].remedy)


def _repair(checks: "list[SinkCheck]", place: "Surroundings", context: "Context") -> None:
    from qanchor.audience.index import build_scenario_index
    from qanchor.embedding.verify import repair_online

    damaged = {check.scenario for check in checks if check.sink == "offline" and not check.agrees}
    for check in checks:
        if check.agrees or check.scenario in damaged:
            continue
        if check.sink == "online":
            repair_online(check.scenario, place)
        if check.sink == "index":
            build_scenario_index(context.home, context.engine, check.scenario)


def _show(checks: "list[SinkCheck]", json: bool) -> None:
    rows = [
        {
            "scenario": check.scenario,
            "store": check.sink,
            "vectors": check.expected,
            "missing": check.missing,
            "different": check.different,
            "result": "agrees" if check.agrees else check.problem or "differs",
        }
        for check in checks
    ]
    if json:
        print_json(rows)
    elif rows:
        print_table("Stores", rows)
    else:
        typer.echo("there are no embeddings yet")
