"""How commands speak: tables and progress for people, JSON for programs, errors on one line of stderr."""

import json
import math
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, is_dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console

JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]

_GAP = 2
# A cell that is longer and has spaces is prose, which may be folded between words.
_PROSE = 30
# All else is kept whole up to this width: no number is longer, a hash or a path may be.
_WHOLE = 36
_ACRONYMS = {"auc": "AUC", "ks": "KS", "ece": "ECE", "cuped": "CUPED", "kb": "kB"}


def print_json(value: object) -> None:
    """One JSON document on stdout: moments in ISO 8601 and UTC, paths as text, null for NaN and infinity."""
    print(json.dumps(_plain(value), indent=2, allow_nan=False))


def _plain(value: object) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        value = asdict(value)
    elif hasattr(value, "tolist"):  # a number or an array of numpy
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(each) for each in value]
    if isinstance(value, datetime):
        moment = value.astimezone(UTC) if value.tzinfo else value.replace(tzinfo=UTC)
        return moment.isoformat().replace("+00:00", "Z")
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def print_rows(title: str, rows: Sequence[Mapping[str, Any]], as_json: bool, without: str = "") -> None:
    """Rows as JSON or as a table; `without` is printed where there would be an empty table."""
    if as_json:
        print_json(rows)
    elif rows or not without:
        print_table(title, rows)
    else:
        print(without)


def print_table(title: str, rows: Sequence[Mapping[str, Any]], as_written: bool = False) -> None:
    """Rows as a table, columns in the order of the first row.

    What is wider than the terminal is divided: one row becomes a list of its cells, several become tables
    below one another, each with the first column. Numbers and names are never broken.

    Args:
        title: printed above.
        rows: of the same columns, named in snake_case; headings have spaces.
        as_written: whether headings are names, such as scenarios', and keep their underscores.
    """
    console = open_console()
    columns = [_Column(name, [row[name] for row in rows], as_written) for name in (rows[0] if rows else ())]
    # A table's own title would be folded to the table's width.
    console.print(title, style="bold", soft_wrap=True, markup=False)
    blocks = _blocks(columns, console.width)
    if len(blocks) > 1 and len(rows) == 1:
        names, values = [column.heading for column in columns], [column.cells[0] for column in columns]
        blocks = [[_Column("", names), _Column("", values)]]
    for number, block in enumerate(blocks):
        if number:
            console.print()
        _print_block(console, block)


class _Column:
    def __init__(self, name: str, values: Sequence[Any], as_written: bool = False) -> None:
        words = (_ACRONYMS.get(word, word) for word in name.split("_"))
        self.heading = name if as_written else " ".join(words)
        self.cells = [_cell(value) for value in values]
        present = [value for value in values if value is not None]
        self.is_number = bool(present) and all(isinstance(value, int | float) for value in present)
        self.width = max(map(_width, [self.heading, *self.cells]))
        is_prose = any(" " in cell and _width(cell) > _PROSE for cell in self.cells)
        self.least = _PROSE if is_prose else min(self.width, _WHOLE)


def _width(text: str) -> int:
    from rich.cells import cell_len

    return max(map(cell_len, text.split("\n")))


def _blocks(columns: Sequence[_Column], width: int) -> list[list[_Column]]:
    """The columns, divided so that each block fits the width; every block begins with the first column."""
    blocks: list[list[_Column]] = []
    block = list(columns[:1])
    for column in columns[1:]:
        if len(block) > 1 and sum(each.least + _GAP for each in [*block, column]) - _GAP > width:
            blocks.append(block)
            block = [columns[0]]
        block.append(column)
    return [*blocks, block] if block else blocks


def _print_block(console: "Console", columns: Sequence[_Column]) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(header_style="bold", box=None, pad_edge=False, show_header=any(c.heading for c in columns))
    for column in columns:
        table.add_column(
            Text(column.heading),
            justify="right" if column.is_number else "left",
            overflow="fold",
            min_width=column.least,
        )
    for cells in zip(*(column.cells for column in columns), strict=True):
        # Data is no markup: `[/x]` and `DE:100:1` are printed as they are.
        table.add_row(*map(Text, cells))
    console.print(table)


def warn_of_old_name(old: str, new: str) -> None:
    """One line on stderr about a command or option that the next release no longer has."""
    print(f"warning: `qanchor-cli {old}` is now `qanchor-cli {new}`; 0.2 drops the old name", file=sys.stderr)


def open_console(pipe_width: int = 200) -> "Console":
    """Stdout, in which data is no emoji code, as wide as the terminal.

    Args:
        pipe_width: width where stdout is a file or a pipe and COLUMNS is not set.
    """
    from rich.console import Console

    console = Console(highlight=False, emoji=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = pipe_width
    return console


def _cell(value: object) -> str:
    if value is None or value == [] or (isinstance(value, float) and not math.isfinite(value)):
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4f}" if abs(value) <= 1 else f"{value:,.1f}"
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M:%S}"
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return f"{value:,}" if isinstance(value, int) else str(value)
