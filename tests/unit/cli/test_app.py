"""The command table: every command imports, says what it does, and fails in one line."""

import importlib
import subprocess
import sys

import pytest

from cli import app as command_line
from qanchor.errors import NotReady


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
