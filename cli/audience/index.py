"""`qanchor-cli index`: FAISS indexes."""

import time
from typing import TYPE_CHECKING, Any

import typer

from cli.groups import command_group
from cli.output import JsonOption, print_json, print_table
from cli.scenarios import AllOption, ScenariosOption, VerboseOption, chosen
from cli.stages import recorded_progress, working
from qanchor.site import Site

if TYPE_CHECKING:
    from qanchor.storage.vectors import IndexPlan

app = command_group("index", "Build, update and show FAISS indexes.")


@app.command()
def build(scenario: ScenariosOption = None, every: AllOption = False, as_json: JsonOption = False) -> None:
    """Build indexes from the embeddings in service.

    The present index serves until the new one is complete. Up to 50,000 users the search is exact. Above, the
    kind is chosen by size, memory and whether the vectors form clusters, and tuned until it reaches
    QANCHOR_INDEX__RECALL (0.98 of the true 100 nearest).

    Example: qanchor-cli index build --all
    """
    from qanchor.audience.index import build_scenario_index

    site, rows = Site.open(), []
    names = _embedded(site, scenario, every)
    with recorded_progress(site, "index build", {"scenarios": names}) as job:
        job.start("indexes", len(names))
        for name in names:
            began = time.monotonic()
            version = build_scenario_index(site, name, _plan(site)).version
            seconds = round(time.monotonic() - began, 2)
            rows.append({**_facts(site, name), "seconds": seconds, "version": version})
            job.made.append(f"index {version} of {name}")
            job.advance()
    _print("Indexes", rows, as_json)


@app.command()
def update(scenario: ScenariosOption = None, every: AllOption = False, as_json: JsonOption = False) -> None:
    """Update indexes to the embeddings in service.

    New and changed users go to a new segment, deleted users are removed; once a tenth has changed the index
    is built again.

    Example: qanchor-cli index update --scenario takeout
    """
    from qanchor.audience.index import update_scenario_index

    site, rows = Site.open(), []
    for name in _embedded(site, scenario, every):
        began = time.monotonic()
        with working(f"updating the index of {name}"):
            done = update_scenario_index(site, name, _plan(site))
        counts = {"changed": done.changed, "gone": done.removed, "rebuilt": "yes" if done.rebuilt else "no"}
        seconds = round(time.monotonic() - began, 2)
        rows.append({**_facts(site, name), **counts, "seconds": seconds, "version": done.row.version})
    _print("Indexes", rows, as_json)


@app.command()
def show(
    scenario: ScenariosOption = None,
    every: AllOption = False,
    verbose: VerboseOption = False,
    as_json: JsonOption = False,
) -> None:
    """Show kind, parameters, measured recall and size of indexes.

    An index that is older than the embeddings in service is marked. Of several indexes a table is shown, with
    --verbose also every figure of each.

    Example: qanchor-cli index show --all
    """
    from qanchor.audience.index import open_scenario_index
    from qanchor.errors import NotReady
    from qanchor.registry.tables import IndexVersion
    from qanchor.registry.versions import active_by_scenario

    site = Site.open()
    ready = list(active_by_scenario(site.engine, IndexVersion, list(site.workspace.scenarios)))
    names = chosen(site.workspace, scenario, every, ready)
    if not names:
        raise NotReady("no scenario has an index yet", "Run `qanchor-cli index build --all`.")
    shown = []
    for name in names:
        served = open_scenario_index(site, name)
        shown.append(
            {
                "scenario": name,
                "version": served.version,
                **served.index.metadata.facts(),
                "load_seconds": round(served.load_seconds, 4),
                "is_behind": served.is_behind,
            }
        )
    if as_json:
        print_json({"indexes": shown})
        return
    if len(shown) > 1:
        names_shown = ("scenario", "kind", "users", "recall", "bytes", "is_behind")
        print_table("Indexes", [{name: facts[name] for name in names_shown} for facts in shown])
        typer.echo("--verbose shows every figure of each")
    for facts in shown if verbose or len(shown) == 1 else ():
        parameters = ", ".join(f"{name} {number:g}" for name, number in facts["parameters"].items())
        row = facts | {"parameters": parameters or "none: exact"}
        cells = [{"what": key.replace("_", " "), "value": value} for key, value in row.items()]
        print_table(f"Index of {facts['scenario']}", cells)


def _embedded(site: Site, scenario: list[str] | None, every: bool) -> list[str]:
    from qanchor.errors import NotReady
    from qanchor.registry.manifests import active_manifests

    ready = active_manifests(site.engine, list(site.workspace.scenarios))
    names = chosen(site.workspace, scenario, every, list(ready))
    if not names:
        raise NotReady("no scenario has embeddings yet", "Run `qanchor-cli backfill --all`.")
    return names


def _plan(site: Site) -> "IndexPlan":
    from qanchor.storage.vectors import IndexPlan

    settings = site.settings.index
    return IndexPlan(
        kind=settings.kind,
        exact_below=settings.exact_below,
        recall=settings.recall,
        memory_bytes=int(settings.memory_gib * 2**30),
        shard_rows=settings.shard_users,
    )


def _facts(site: Site, scenario: str) -> dict[str, Any]:
    from qanchor.registry.versions import active_index
    from qanchor.storage.vectors import read_metadata

    row = active_index(site.engine, scenario)
    metadata = read_metadata(site.home.root / row.path)
    return {
        "scenario": scenario,
        "users": metadata.rows,
        "kind": metadata.kind,
        "recall": metadata.recall,
        "queries": metadata.queries,
        "bytes": metadata.bytes,
    }


def _print(title: str, rows: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        print_json({"indexes": rows})
        return
    print_table(title, rows)
    if all(row["queries"] == 0 for row in rows):
        typer.echo("The search is exact.")
    else:
        typer.echo("recall: share of the true 100 nearest found, measured with that many held-out queries.")
