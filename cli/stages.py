"""Progress of long work on stderr: bars of rich on a terminal, plain lines otherwise."""

import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.progress import Progress, Task, TaskID

    from qanchor.registry.jobs import RecordedJob
    from qanchor.site import Site

_LINE_SECONDS = 10.0


@contextmanager
def progress() -> "Iterator[Stages]":
    """A qanchor.progress.Progress: bars on a terminal, plain lines otherwise."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        Progress,
        ProgressColumn,
        SpinnerColumn,
        TextColumn,
        TimeElapsedColumn,
    )
    from rich.text import Text

    class Figures(ProgressColumn):
        def render(self, task: "Task") -> Text:
            return Text(_figures(task))

    watched = sys.stderr.isatty()
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(20),
        Figures(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[note]}", markup=False),
    )
    with Progress(
        *columns,
        console=Console(stderr=True),
        # Results that are piped elsewhere are left alone.
        redirect_stdout=sys.stdout.isatty(),
        disable=not watched,
    ) as display:
        stages = Stages(display, None if watched else _LINE_SECONDS)
        yield stages
        stages.finish()


@contextmanager
def recorded_progress(site: "Site", kind: str, parameters: Mapping[str, Any]) -> "Iterator[RecordedJob]":
    """As `progress`; the work is also a job, which `qanchor-cli jobs` lists.

    Args:
        site: registry.
        kind: name of the command.
        parameters: request; JSON values.
    """
    from qanchor.registry.jobs import recorded_job

    with progress() as stages, recorded_job(site.engine, kind, parameters, stages) as job:
        yield job


@contextmanager
def working(label: str) -> Iterator[None]:
    """A spinner on a terminal, for one stage whose steps nobody counts."""
    with progress() as stages:
        stages.start(label)
        yield


class Stages:
    """Stages one after the other, each ended by the next.

    Args:
        display: counts, and draws where it is not disabled.
        line_seconds: seconds between plain lines; None: none are printed.
    """

    def __init__(self, display: "Progress", line_seconds: float | None = None) -> None:
        self._display = display
        self._line_seconds = line_seconds
        self._task: TaskID | None = None
        self._printed = 0.0

    def start(self, label: str, total: int | None = None) -> None:
        """Begin a stage of `total` steps (None: unknown)."""
        self.finish()
        self._task = self._display.add_task(label, total=total, note="", is_counted=True)
        # Shown before the work begins, which may hold the interpreter for seconds.
        self._display.refresh()
        self._printed = time.monotonic()

    def advance(self, steps: int = 1, note: str = "") -> None:
        """Count `steps` more; `note` is a short figure to show, such as the loss."""
        if self._task is None:
            return
        self._display.update(self._task, advance=steps)
        if note:
            self._display.update(self._task, note=note)
        if self._line_seconds is not None:
            self._print_line(self._display.tasks[-1], note, self._line_seconds)

    def finish(self) -> None:
        """End the stage: its bar is full, also where its steps were unknown or fewer than expected."""
        if self._task is not None:
            task = self._display.tasks[-1]
            if not task.finished:
                steps = task.completed or task.total or 1
                counted = task.total is not None or task.completed > 0
                self._display.update(self._task, total=steps, completed=steps, is_counted=counted)
        self._task = None

    def _print_line(self, task: "Task", note: str, line_seconds: float) -> None:
        now = time.monotonic()
        if now - self._printed < line_seconds and not task.finished:
            return
        self._printed = now
        print(f"{task.description}: {_figures(task)} {note}".rstrip(), file=sys.stderr, flush=True)


def _figures(task: "Task") -> str:
    """Steps done, of how many, how many a second, and the time left where the total is known."""
    of = "" if task.total is None else f"/{task.total:,.0f}"
    if not task.completed or not task.fields["is_counted"]:
        return f"0{of}" if of and not task.completed else ""
    mean = task.completed / max(task.elapsed or 0.0, 1e-9)
    rate = mean if task.finished else task.speed or mean
    text = f"{task.completed:,.0f}{of} rate={rate:,.{0 if rate >= 10 else 1}f}/s"
    # Rich knows it after a second step: of the first alone nothing follows.
    left = None if task.finished else task.time_remaining
    return text if left is None else f"{text} left={timedelta(seconds=round(left))}"
