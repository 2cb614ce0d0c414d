"""The --scenario and --all options, the same in every command that takes several scenarios."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from qanchor.workspace import Workspace

ScenariosOption = Annotated[
    list[str] | None, typer.Option("--scenario", metavar="NAME", help="Name of a scenario; repeatable.")
]
AllOption = Annotated[bool, typer.Option("--all", help="All scenarios of scenarios.yaml.")]


def chosen(
    workspace: "Workspace", named: Sequence[str] | None, every: bool, ready: Sequence[str] | None = None
) -> list[str]:
    """The scenarios that the options ask for, each once.

    Args:
        workspace: names the scenarios.
        named: those given one by one.
        every: whether all are asked for.
        ready: what `every` means where not all can take part; default: all of scenarios.yaml.

    Raises:
        InputError: neither or both options are given, or there is no scenario.
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
