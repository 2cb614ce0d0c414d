"""The command table: every command imports, says what it does, and fails in one line."""

import errno
import importlib
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy.exc import OperationalError

from cli import app as command_line
from qanchor import __version__
from qanchor.errors import NotReady
from tests.unit.cli.conftest import Run


@pytest.mark.parametrize("name", command_line.COMMANDS)
def test_every_command_has_help_with_an_example(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    module_name, summary = command_line.COMMANDS[name]
    module = importlib.import_module(module_name)
    assert hasattr(module, "run") or hasattr(module, "app")
    assert summary.endswith(".")
    assert command_line.run_command([name, "--help"]) == 0
    shown = capsys.readouterr().out
    if hasattr(module, "run"):
        assert "Example: qanchor-cli" in " ".join(shown.split())


def test_unknown_command_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert command_line.run_command(["nonsense"]) == 2
    assert "nonsense" in capsys.readouterr().err


def test_a_qanchor_error_is_one_line_on_stderr_and_its_exit_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> None:
        raise NotReady("no model\nyet", "Run `qanchor-cli pretrain`.")

    monkeypatch.setattr("cli.operate.status.run", fail)
    assert command_line.run_command(["status"]) == 3
    captured = capsys.readouterr()
    assert captured.err == "error: no model yet. Run `qanchor-cli pretrain`.\n"
    assert captured.out == ""


def test_a_full_disk_is_said_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("cli.operate.status.run", fail)
    assert command_line.run_command(["status"]) == 4
    assert capsys.readouterr().err.startswith("error: no space left")


def test_an_interrupt_says_how_to_go_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("cli.operate.status.run", stop)
    assert command_line.run_command(["status"]) == 130
    assert "run the same command again" in capsys.readouterr().err


def test_module_and_script_are_the_same_program() -> None:
    shown = subprocess.run(
        [sys.executable, "-m", "cli", "--help"], capture_output=True, text=True, check=True, timeout=60
    ).stdout
    assert all(name in shown for name in command_line.COMMANDS)


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert command_line.run_command(["--version"]) == 0
    assert capsys.readouterr().out == f"qanchor {__version__}\n"


@pytest.mark.parametrize(
    ("words", "candidate"),
    [
        ("qanchor-cli he", "head"),
        ("qanchor-cli head tr", "train"),
        ("qanchor-cli head train --sc", "--scenario"),
    ],
)
def test_the_shell_completes_commands_and_options(words: str, candidate: str) -> None:
    environment = {
        **os.environ,
        "_QANCHOR_CLI_COMPLETE": "complete_bash",
        "COMP_WORDS": words,
        "COMP_CWORD": str(len(words.split()) - 1),
    }
    command = [sys.executable, "-m", "cli"]
    finished = subprocess.run(
        command, capture_output=True, text=True, env=environment, check=False, timeout=60
    )
    assert finished.stdout.split() == [candidate]


@pytest.mark.parametrize(
    ("line", "meant"),
    [
        ("backfil --all", "Did you mean 'backfill'?"),
        ("head trian", "Did you mean 'train'?"),
        ("head train --scenaro takeout", "Did you mean --scenario?"),
        ("backfill --scenario Takout", "Did you mean 'takeout'?"),
    ],
)
def test_a_typo_is_answered_with_the_word_that_was_meant(
    empty_home: Path, run: Run, line: str, meant: str
) -> None:
    code, out, err = run(*line.split())
    assert (code, out) == (2, "")
    assert meant in err


@pytest.mark.parametrize(
    ("error", "code", "parts"),
    [
        (
            PermissionError(errno.EACCES, "Permission denied", "/x/home/qanchor.db"),
            4,
            ("/x/home", "QANCHOR_HOME"),
        ),
        (OSError(errno.EROFS, "Read-only file system", "/x/home/y"), 4, ("Read-only file system",)),
        (FileNotFoundError(errno.ENOENT, "No such file or directory", b"/x/home/z"), 4, ("No such file",)),
        (PermissionError(errno.EACCES, "Permission denied", "/x/in/events.csv"), 2, ("path that you gave",)),
        (IsADirectoryError(errno.EISDIR, "Is a directory", "/x/in"), 2, ("/x/in",)),
        (ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused"), 4, ("Connection refused",)),
        (OSError("arrow cannot read it"), 4, ("arrow cannot read it",)),
        (
            OperationalError("", {}, sqlite3.OperationalError("attempt to write a readonly database")),
            4,
            ("readonly",),
        ),
    ],
)
def test_a_file_or_store_that_cannot_be_used_is_one_line(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: Exception,
    code: int,
    parts: tuple[str, ...],
) -> None:
    def fail(file: Path) -> None:
        raise error

    monkeypatch.setattr("cli.data.simulate.run", fail)
    assert command_line.run_command(["simulate", "/x/in"]) == code
    out, err = capsys.readouterr()
    assert (out, err.count("\n"), err[:7]) == ("", 1, "error: ")
    assert all(part in err for part in parts)


def test_a_fault_of_the_program_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise AttributeError("shape")

    monkeypatch.setattr("cli.operate.status.run", fail)
    with pytest.raises(AttributeError, match="shape"):
        command_line.run_command(["status"])


def test_a_reader_that_stops_early_is_no_fault() -> None:
    script = f"{sys.executable} -m cli events --help | {sys.executable} -c pass"
    finished = subprocess.run(script, shell=True, capture_output=True, text=True, check=False, timeout=60)
    assert finished.stderr == ""
