"""`qanchor-cli index`: FAISS indexes."""

import time

import typer

from cli.context import open_context
from cli.output import JsonOption, print_json, print_table
from cli.scenarios import AllOption, ScenariosOption, chosen

app = typer.Typer(
    name="index",
    help="Build the FAISS index of a scenario.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
)


@app.callback()
def _group() -> None:
    """Build the FAISS index of a scenario."""


@app.command()
def build(scenario: ScenariosOption = None, every: AllOption = False, as_json: JsonOption = False) -> None:
    """Build indexes from the active embeddings; the earlier index serves until its successor is whole.

    Up to 50,000 users the search is exact; above, it walks a graph whose recall is measured.

    Example: qanchor-cli index build --all
    """
    from qanchor.audience.index import build_scenario_index
    from qanchor.errors import NotReady
    from qanchor.registry.manifests import active_manifests

    context = open_context()
    ready = active_manifests(context.engine, list(context.workspace.scenarios))
    names = chosen(context.workspace, scenario, every, list(ready))
    if not names:
        raise NotReady("no scenario has embeddings yet", "Run `qanchor-cli backfill --all`.")
    rows = []
    for name in names:
        began = time.monotonic()
        row = build_scenario_index(context.home, context.engine, name)
        rows.append(
            {
                "scenario": name,
                "users": row.rows,
                "kind": row.kind,
                "recall": row.recall,
                "seconds": round(time.monotonic() - began, 2),
                "version": row.version,
            }
        )
    if as_json:
        print_json({"indexes": rows})
    else:
        print_table("Indexes", rows)
