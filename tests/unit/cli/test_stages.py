"""Progress: a spinner at once, bars that end, no time left that nobody knows."""

import io

import pytest
from rich.console import Console
from rich.progress import Progress

from cli.stages import Stages, progress, working


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def _watch(monkeypatch: pytest.MonkeyPatch) -> _Terminal:
    """Called in a test's body: pytest sets stderr again after the fixtures."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    stream = _Terminal()
    monkeypatch.setattr("sys.stderr", stream)
    return stream


def test_a_stage_of_unknown_length_shows_no_total_and_no_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = _watch(monkeypatch)
    with progress() as stages:
        stages.start("reading events")
        assert "reading events" in terminal.getvalue()
    assert "/?" not in terminal.getvalue()
    assert "left" not in terminal.getvalue()


def test_each_stage_ends_full(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = _watch(monkeypatch)
    with progress() as stages:
        stages.start("reading")
        stages.advance(5)
        stages.start("embedding [x] DE:100:1", 10)
        stages.advance(4)
    frame = terminal.getvalue()
    assert "5/5" in frame
    assert "4/4" in frame
    assert "embedding [x] DE:100:1" in frame


def test_a_failure_leaves_the_bar_where_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = _watch(monkeypatch)

    def work() -> None:
        with progress() as stages:
            stages.start("embedding", 10)
            stages.advance(4)
            raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        work()
    assert "4/10" in terminal.getvalue()
    assert "4/4" not in terminal.getvalue()


def test_a_spinner_names_work_that_counts_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = _watch(monkeypatch)
    with working("comparing stores"):
        assert "comparing stores" in terminal.getvalue()


def test_without_a_terminal_the_end_of_a_stage_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with progress() as stages:
        stages.start("loading", 3)
        stages.advance(1)
        stages.advance(2, "loss 0.5")
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert err.startswith("loading: 3/3 rate=")
    assert err.endswith("/s loss 0.5\n")


def test_lines_show_the_time_left_by_the_present_rate(capsys: pytest.CaptureFixture[str]) -> None:
    now = [0.0]
    display = Progress(console=Console(stderr=True), get_time=lambda: now[0], disable=True)
    stages = Stages(display, line_seconds=0.0)
    stages.start("training", 100)
    for moment in (90.0, 91.0, 92.0, 93.0):
        now[0] = moment
        stages.advance(1)
    # The first step took 90 s, which says nothing about those to come: one a second is left.
    assert "left=0:01:36" in capsys.readouterr().err.splitlines()[-1]


def test_a_stage_of_unknown_length_has_lines_without_time_left(capsys: pytest.CaptureFixture[str]) -> None:
    stages = Stages(Progress(disable=True), line_seconds=0.0)
    stages.start("consuming")
    stages.advance(7)
    assert "left" not in capsys.readouterr().err
