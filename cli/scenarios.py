"""The options of scenarios, of user files and of result files, the same in every command."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from qanchor.workspace import Workspace

ScenariosOption = Annotated[
    list[str] | None, typer.Option("--scenario", metavar="NAME", help="Name of a scenario; repeatable.")
]
ScenarioOption = Annotated[
    str, typer.Option("--scenario", metavar="NAME", help="Name of a scenario.", show_default=False)
]
AllOption = Annotated[bool, typer.Option("--all", help="All scenarios of scenarios.yaml.")]
VerboseOption = Annotated[
    bool, typer.Option("--verbose", help="Show every figure of each scenario, not the matrix alone.")
]
OnlineOption = Annotated[
    bool, typer.Option("--online/--no-online", help="Whether the online store is updated as well.")
]
UsersOption = Annotated[
    Path | None,
    typer.Option("--users", metavar="FILE", help="File of users: Parquet or CSV with user_id, or .txt."),
]
OutOption = Annotated[
    Path | None,
    typer.Option("--out", metavar="FILE", help="File for all rows: .parquet, .csv, .json or .jsonl."),
]


def chosen(
    workspace: "Workspace", named: Sequence[str] | None, every: bool, ready: Sequence[str] | None = None
) -> list[str]:
    """The scenarios that the options name, each once.

    Args:
        workspace: names the scenarios.
        named: values of --scenario.
        every: value of --all.
        ready: meaning of --all where not all scenarios can take part; default: all of scenarios.yaml.

    Raises:
        InputError: neither or both options are set, or there is no scenario.
        UnknownScenario: scenarios.yaml does not name it.
    """
    from qanchor.errors import InputError

    if bool(named) == every:
        problem = "both --scenario and --all are given" if every else "no scenario is given"
        raise InputError(problem, "Give --scenario NAME (repeatable) or --all.")
    for name in named or ():
        workspace.scenario(name)
    if not workspace.scenarios:
        raise InputError("scenarios.yaml names no scenario", "Add one there.")
    if named:
        return list(dict.fromkeys(named))
    return list(workspace.scenarios if ready is None else ready)
