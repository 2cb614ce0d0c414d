"""`qanchor-cli labels`: the labels of scenarios."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.groups import command_group
from cli.output import JsonOption, print_json, print_table
from qanchor.site import Site

if TYPE_CHECKING:
    from qanchor.events.labels import LabelLoader

app = command_group("labels", "Load the labels of scenarios.")


@app.command()
def load(
    scenario: Annotated[str, typer.Argument(help="Name of a scenario.")],
    file: Annotated[Path, typer.Argument(help="Parquet or CSV: user_id, as_of, label, fold or split.")],
    as_json: JsonOption = False,
) -> None:
    """Load the labels of a scenario from a file.

    They replace earlier ones. Columns: user_id; as_of, the cut-off: only events before it are read; label, 0
    or 1; and optionally fold (0, 1, ...: the highest is the test part, the next lower one validates, the rest
    train) or split (train, valid, test). With neither, users are divided 70/10/20 by a hash. Dates and times
    without a time zone are read as UTC. Loading the same file again changes nothing.

    Example: qanchor-cli labels load takeout labels.parquet
    """
    site = Site.open()
    result = _load(_loader(site), scenario, file)
    if as_json:
        print_json(result.counts | {"content_hash": result.content_hash, "warnings": result.warnings})
        return
    _print([result])


@app.command("load-all")
def load_all(
    folder: Annotated[Path, typer.Argument(help="Folder of SCENARIO.parquet or SCENARIO.csv files.")],
    as_json: JsonOption = False,
) -> None:
    """Load all label files of a folder, each named after its scenario.

    Upper and lower case are the same. Files of other names are listed and left out.

    Example: qanchor-cli labels load-all labels/
    """
    from qanchor.errors import LabelsInvalid

    site = Site.open()
    files = sorted(path for path in folder.glob("*") if path.suffix in {".parquet", ".csv"})
    scenarios = {path: path.stem.lower() for path in files if path.stem.lower() in site.workspace.scenarios}
    if not scenarios:
        names = ", ".join(site.workspace.scenarios)
        raise LabelsInvalid(f"{folder} holds no file named after a scenario", f"The scenarios are: {names}.")
    loader = _loader(site)
    results = [_load(loader, scenario, path) for path, scenario in scenarios.items()]
    for path in files:
        if path not in scenarios:
            typer.echo(f"warning: {path.name} is not named after a scenario and was left out", err=True)
    if as_json:
        print_json([result.counts | {"warnings": result.warnings} for result in results])
        return
    _print(results)


@dataclass(frozen=True)
class _Result:
    counts: dict[str, Any]
    content_hash: str
    warnings: Sequence[str]


def _loader(site: Site) -> "LabelLoader":
    from qanchor.events.labels import LabelLoader

    return LabelLoader(site.home, site.engine, site.workspace, site.settings.events)


def _load(loader: "LabelLoader", scenario: str, file: Path) -> _Result:
    loaded = loader.load(file, scenario)
    counts = {
        "scenario": scenario,
        "rows": loaded.labels.table.num_rows,
        "positives": loaded.labels.positives,
        **loaded.parts,
        "by": loaded.labels.divided_by,
        "no_history": loaded.without_history,
    }
    return _Result(counts, loaded.labels.content_hash, loaded.warnings)


def _print(results: Sequence[_Result]) -> None:
    print_table("labels", [result.counts for result in results])
    # A warning that several scenarios share is printed once.
    for warning in dict.fromkeys(warning for result in results for warning in result.warnings):
        typer.echo(f"warning: {warning}", err=True)
