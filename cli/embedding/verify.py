"""`qanchor-cli verify`: compares the vectors of offline store, online store and index."""

from typing import TYPE_CHECKING, Annotated

import typer

from cli.output import JsonOption, print_rows
from cli.scenarios import AllOption, ScenariosOption, chosen
from cli.stages import progress, working
from qanchor.site import Site

if TYPE_CHECKING:
    from qanchor.embedding.verify import StoreCheck
    from qanchor.site import Site


def run(
    scenario: ScenariosOption = None,
    every: AllOption = False,
    repair: Annotated[
        bool,
        typer.Option("--repair", help="Write the online store and the index again where they differ."),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Compare the vectors of all stores with the manifest in service.

    Offline store, online store and index are compared by count and by hash. The offline store is the
    reference: --repair writes the others from it. If the offline store itself is damaged, run a backfill. The
    exit code is 3 while anything differs.

    Example: qanchor-cli verify --all --repair
    """
    from qanchor.errors import StateError
    from qanchor.registry.manifests import active_manifests

    site = Site.open()
    ready = list(active_manifests(site.engine, list(site.workspace.scenarios)))
    names = chosen(site.workspace, scenario, every, ready)
    checks = _compare(site, names)
    if repair and not all(check.agrees for check in checks):
        with working("repairing stores"):
            _repair(checks, site)
        checks = _compare(site, names)
    _show(checks, as_json)
    wrong = [check for check in checks if not check.agrees]
    if wrong:
        where = ", ".join(f"{check.scenario} {check.store}" for check in wrong)
        raise StateError(f"stores differ: {where}", wrong[0].remedy)


def _compare(site: "Site", names: list[str]) -> "list[StoreCheck]":
    from qanchor.embedding.verify import verify

    with progress() as bar:
        bar.start("comparing stores", len(names))
        checks = []
        for name in names:
            checks += verify(site, name)
            bar.advance(1, name)
    return checks


def _repair(checks: "list[StoreCheck]", site: "Site") -> None:
    from qanchor.audience.index import build_scenario_index
    from qanchor.embedding.verify import repair_online

    damaged = {check.scenario for check in checks if check.store == "offline" and not check.agrees}
    for check in checks:
        if check.agrees or check.scenario in damaged:
            continue
        if check.store == "online":
            repair_online(site, check.scenario)
        if check.store == "index":
            build_scenario_index(site, check.scenario)


def _show(checks: "list[StoreCheck]", as_json: bool) -> None:
    rows = [
        {
            "scenario": check.scenario,
            "store": check.store,
            "vectors": check.expected,
            "missing": check.missing,
            "different": check.different,
            "result": "agrees" if check.agrees else check.problem or "differs",
        }
        for check in checks
    ]
    print_rows("Stores", rows, as_json, "there are no embeddings yet")
