"""Every help page reads in plain words and fits 80 columns."""

import re
from collections.abc import Iterator
from typing import Any

import pytest
import typer

from cli.app import COMMANDS, app


def _commands() -> Iterator[tuple[str, Any]]:
    root: Any = typer.main.get_command(app)
    for name in COMMANDS:
        command = root.get_command(None, name)
        yield name, command
        for each in getattr(command, "commands", {}).values():
            if not each.hidden:  # an old name
                yield f"{name} {each.name}", each


_ALL = dict(_commands())


def _page(name: str, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("COLUMNS", "80")
    context = _ALL[name].make_context(f"qanchor-cli {name}", [], resilient_parsing=True)
    page: str = _ALL[name].get_help(context)
    return page


@pytest.mark.parametrize("name", _ALL)
def test_a_page_names_values_and_fits_80_columns(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    page = _page(name, monkeypatch)
    assert max(map(len, page.splitlines())) <= 80
    usage = page.partition("\n\n")[0]
    assert not re.search(r"\{|<[a-z%]|\[\[|\.\.\.\.", page), page
    assert re.fullmatch(r"Usage: qanchor-cli [a-z -]+ \[OPTIONS\][A-Za-z_|. \[\]]*", " ".join(usage.split()))


@pytest.mark.parametrize("name", _ALL)
def test_every_option_and_argument_has_help(name: str) -> None:
    assert [each.name for each in _ALL[name].params if not each.help] == []


@pytest.mark.parametrize("name", [name for name, command in _ALL.items() if hasattr(command, "commands")])
def test_a_group_shows_whole_summaries(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    listing = _page(name, monkeypatch).partition("Commands:\n")[2]
    assert [line for line in listing.splitlines() if not re.search(r"[^.]\.$", line)] == []


def test_the_table_and_a_group_have_one_summary() -> None:
    for name, (_, summary) in COMMANDS.items():
        if hasattr(_ALL[name], "commands") and name != "consume":
            assert _ALL[name].help == summary, name


@pytest.mark.parametrize("name", [name for name, command in _ALL.items() if not hasattr(command, "commands")])
def test_an_example_can_be_pasted(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    examples = re.findall(r"Example: ((?:.*\\\n)*.*)", _page(name, monkeypatch))
    assert examples
    for example in examples:
        words = example.replace("\\\n", " ").split()
        assert words[words.index("qanchor-cli") + 1 :][: len(name.split())] == name.split()
