"""`qanchor-cli new`: a new feature repository."""

from pathlib import Path
from typing import Annotated

import typer


def run(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Folder to create.")],
    source: Annotated[
        Path | None,
        typer.Option(
            "--from",
            metavar="DIR",
            help="Folder to copy modalities.yaml and scenarios.yaml from.",
        ),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Accept a folder that is not empty; nothing is overwritten.")
    ] = False,
) -> None:
    """Create a feature repository: modalities.yaml, scenarios.yaml and the files of Feast.

    Example: qanchor-cli new shop --from examples/online_retail
    """
    from qanchor.scaffold import REPOSITORY, scaffold

    workspace = scaffold(directory, source, force)
    scenario = next(iter(workspace.scenarios), "SCENARIO")
    typer.echo(
        f"created {directory / REPOSITORY} with modalities {', '.join(workspace.modalities)}"
        f" and scenarios {', '.join(workspace.scenarios)}"
    )
    if source is None:
        typer.echo("describe your events in modalities.yaml and your scenarios in scenarios.yaml, then:")
    typer.secho(f"  cd {directory}", bold=True)
    typer.secho("  qanchor-cli events load events.parquet", bold=True)
    typer.secho(f"  qanchor-cli labels load {scenario} labels.parquet", bold=True)
