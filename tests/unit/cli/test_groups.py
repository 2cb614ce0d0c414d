"""A command with a dataclass of options has an option for each of its fields."""

from dataclasses import dataclass
from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner

from cli.groups import command_group, with_options


@dataclass(frozen=True, kw_only=True)
class Colours:
    """Options that two commands share."""

    front: Annotated[str, typer.Option(help="Colour in front.")]
    back: Annotated[str | None, typer.Option(help="Colour behind.")] = None
    depth: Annotated[int, typer.Option(min=1, help="Bits.")] = 8


app = command_group("paint", "Paint.")


@app.command()
@with_options(Colours)
def every(name: Annotated[str, typer.Argument()], colours: Colours, loud: bool = False) -> None:
    """Offer every option."""
    typer.echo(f"{name} {colours} {loud}")


@app.command()
@with_options(Colours, without=("depth",), required=("back",))
def some(colours: Colours) -> None:
    """Offer two options and insist on both."""
    typer.echo(str(colours))


@pytest.mark.parametrize(
    ("arguments", "output"),
    [
        (["every", "x", "--front", "red"], "x Colours(front='red', back=None, depth=8) False"),
        (
            ["every", "x", "--front", "red", "--back", "blue", "--depth", "2", "--loud"],
            "x Colours(front='red', back='blue', depth=2) True",
        ),
        (["some", "--front", "red", "--back", "blue"], "Colours(front='red', back='blue', depth=8)"),
    ],
)
def test_options_reach_the_command_as_one_object(arguments: list[str], output: str) -> None:
    result = CliRunner().invoke(app, arguments)
    assert (result.exit_code, result.output.strip()) == (0, output)


@pytest.mark.parametrize(
    ("arguments", "option"),
    [
        (["every", "x"], "--front"),
        (["every", "x", "--front", "red", "--depth", "0"], "--depth"),
        (["some", "--front", "red"], "--back"),
        (["some", "--front", "red", "--back", "blue", "--depth", "2"], "--depth"),
    ],
)
def test_a_missing_wrong_or_absent_option_is_refused_by_name(arguments: list[str], option: str) -> None:
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2
    assert option in result.output


def test_help_lists_the_options_in_the_order_of_the_fields() -> None:
    lines = CliRunner().invoke(app, ["every", "--help"]).output
    assert lines.index("--front") < lines.index("--back") < lines.index("--depth") < lines.index("--loud")
    assert "Offer every option." in lines
