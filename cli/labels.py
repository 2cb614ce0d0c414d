"""`qanchor-cli labels`: what is known to have happened, per scenario."""

from pathlib import Path
from typing import Annotated

import typer

from cli.context import open_context
from cli.output import JsonOption, print_json, print_table

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Load the labels of a scenario.")


@app.callback()
def _group() -> None:
    """Load the labels of a scenario."""


@app.command()
def load(
    scenario: Annotated[str, typer.Argument(help="A scenario of scenarios.yaml.")],
    file: Annotated[Path, typer.Argument(help="Parquet or CSV: user_id, as_of, label, fold or split.")],
    json: JsonOption = False,
) -> None:
    """Check a label file and put it in use, in place of the scenario's labels before.

    Columns: user_id; as_of, the cut-off: only events before it are read; label, 0 or 1; and, if
    wanted, fold (0, 1, ...: the highest is tested on, the next lower one chooses, the rest train) or
    split (train, valid, test). With neither, users are divided 70/10/20 by a hash. Dates and times
    without a zone are taken as UTC. Loading the same file again changes nothing.

    Example: qanchor-cli labels load takeout labels.parquet
    """
    from qanchor.events.labels import load_labels_file

    context = open_context()
    loaded = load_labels_file(
        file, scenario, context.home, context.engine, context.workspace, context.settings.events
    )
    result = {
        "scenario": scenario,
        "rows": loaded.labels.table.num_rows,
        "positives": loaded.labels.positives,
        **loaded.parts,
        "by": loaded.labels.divided_by,
        "no_history": loaded.without_history,
    }
    if json:
        print_json(result | {"content_hash": loaded.labels.content_hash, "warnings": loaded.warnings})
        return
    print_table("labels", [result])
    for warning in loaded.warnings:
        typer.echo(f"warning: {warning}", err=True)
