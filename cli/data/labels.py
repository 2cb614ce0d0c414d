"""`qanchor-cli labels`: the labels of scenarios."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.groups import command_group
from cli.output import JsonOption, print_json, print_table, warn_of_old_name
from qanchor.site import Site

if TYPE_CHECKING:
    from qanchor.events.labels import LabelLoader

app = command_group("labels", "Load the labels of scenarios.")


@app.command()
def load(
    scenario: Annotated[str | None, typer.Argument(help="Name of a scenario.")] = None,
    file: Annotated[
        Path | None, typer.Argument(help="Parquet or CSV: user_id, as_of, label, fold or split.")
    ] = None,
    folder: Annotated[
        Path | None,
        typer.Option("--all", metavar="DIR", help="Load SCENARIO.parquet or SCENARIO.csv of a folder."),
    ] = None,
    skip: Annotated[
        bool,
        typer.Option(
            "--skip-incomplete", help="With --all, leave out files of which a part lacks one of the labels."
        ),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Load the labels of a scenario from a file.

    They replace earlier ones. Columns: user_id; as_of, the cut-off: only events before it are read; label, 0
    or 1; and optionally fold (0, 1, ...: the highest is the test part, the next lower one validates, the rest
    train) or split (train, valid, test). With neither, users are divided 70/10/20 by a hash. Dates and times
    without a time zone are read as UTC. Loading the same file again changes nothing.

    With --all DIR every file of a folder that is named after a scenario is loaded, in upper or lower case;
    files of other names are listed and left out.

    Example: qanchor-cli labels load takeout labels.parquet
    """
    from qanchor.errors import InputError

    if folder is not None:
        if scenario is not None:
            raise InputError("both SCENARIO and --all are given", "Give SCENARIO FILE, or --all DIR.")
        _load_folder(folder, skip, as_json)
        return
    if scenario is None or file is None:
        raise InputError("no label file is given", "Give SCENARIO FILE, or --all DIR.")
    site = Site.open()
    result = _load(_loader(site), scenario, file)
    if as_json:
        print_json(result.counts | {"content_hash": result.content_hash, "warnings": result.warnings})
        return
    _print([result])


@app.command("load-all", hidden=True)
def load_all(
    folder: Annotated[Path, typer.Argument(help="Folder of SCENARIO.parquet or SCENARIO.csv files.")],
    as_json: JsonOption = False,
) -> None:
    """Load all label files of a folder: the old name of `labels load --all DIR`."""
    warn_of_old_name("labels load-all DIR", "labels load --all DIR")
    _load_folder(folder, False, as_json)


def _load_folder(folder: Path, skip: bool, as_json: bool) -> None:
    """Load the files that are named after scenarios, where `skip` is set without the incomplete ones."""
    from qanchor.errors import PartIncomplete

    site = Site.open()
    loader, results, problem = _loader(site), [], ""
    for scenario, path in _files_by_scenario(site, folder).items():
        try:
            results.append(_load(loader, scenario, path))
        except PartIncomplete as error:
            if not skip:
                raise
            problem = error.problem
            typer.echo(f"warning: {path.name} is left out: {problem}", err=True)
    if not results:
        raise PartIncomplete(f"every label file of {folder} is incomplete: {problem}", "Give more users.")
    if as_json:
        print_json([result.counts | {"warnings": result.warnings} for result in results])
        return
    _print(results)


def _files_by_scenario(site: Site, folder: Path) -> dict[str, Path]:
    from qanchor.errors import LabelsInvalid

    files = sorted(path for path in folder.glob("*") if path.suffix in {".parquet", ".csv"})
    known = {path.stem.lower(): path for path in files if path.stem.lower() in site.workspace.scenarios}
    if not known:
        names = ", ".join(site.workspace.scenarios)
        raise LabelsInvalid(f"{folder} holds no file named after a scenario", f"The scenarios are: {names}.")
    for path in files:
        if path not in known.values():
            typer.echo(f"warning: {path.name} is not named after a scenario and was left out", err=True)
    return known


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
