"""How commands speak: tables and progress for people, JSON for programs, errors on one line of stderr."""

import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Annotated, Any

import typer

JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


def print_json(value: Any) -> None:
    """One JSON document on stdout; times and paths as text."""
    print(json.dumps(value, indent=2, default=str))


def print_table(title: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Rows as a table, columns in the order of the first row."""
    from rich.console import Console
    from rich.table import Table

    table = Table(header_style="bold", box=None, pad_edge=False)
    for column in rows[0] if rows else ():
        numeric = all(isinstance(row[column], int | float) for row in rows)
        table.add_column(column, justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*(_cell(value) for value in row.values()))
    # A file or a pipe has no width: nothing is folded there.
    console = Console()
    console = console if console.is_terminal else Console(width=200)
    # A table's own title is folded to the table's width.
    console.print(title, style="bold", soft_wrap=True, markup=False, highlight=False)
    console.print(table)


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.4f}" if abs(value) <= 1 else f"{value:,.1f}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return str(value)


class _Bar:
    def __init__(self, display: Any) -> None:
        self._display = display
        self._task: Any = None

    def start(self, label: str, total: int | None = None) -> None:
        self._task = self._display.add_task(label, total=total, note="", rate="")
        self._began = time.monotonic()
        self._done = 0

    def advance(self, steps: int = 1, note: str = "") -> None:
        self._done += steps
        rate = self._done / max(1e-9, time.monotonic() - self._began)
        self._display.update(
            self._task, advance=steps, rate=f"{rate:,.0f}/s" if rate >= 10 else f"{rate:.1f}/s"
        )
        if note:
            self._display.update(self._task, note=note)


class _Lines:
    """Progress where nobody watches a terminal: a line every few seconds."""

    every_seconds = 10.0

    def start(self, label: str, total: int | None = None) -> None:
        self._label, self._total, self._done = label, total, 0
        self._began = self._said = time.monotonic()

    def advance(self, steps: int = 1, note: str = "") -> None:
        self._done += steps
        now = time.monotonic()
        if now - self._said < self.every_seconds and self._done != self._total:
            return
        self._said = now
        rate = self._done / max(1e-9, now - self._began)
        of = f"/{self._total:,}" if self._total else ""
        left = f" left={(self._total - self._done) / max(rate, 1e-9):.0f}s" if self._total else ""
        print(
            f"{self._label}: {self._done:,}{of} rate={rate:,.1f}/s{left} {note}".rstrip(),
            file=sys.stderr,
            flush=True,
        )


@contextmanager
def progress() -> Iterator[Any]:
    """A qanchor.progress.Progress: a bar with rate and time left on a terminal, plain lines otherwise."""
    if not sys.stderr.isatty():
        yield _Lines()
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (
        "{task.description}",
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=Console(stderr=True)) as display:
        yield _Bar(display)
