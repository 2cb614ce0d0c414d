"""A world that the environment points to, and a way to run commands in it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cli.app import run_command
from tests.unit.embedding.world import World, make_world

Run = Callable[..., tuple[int, str, str]]


def run_json(run: Run, *arguments: str) -> dict[str, Any]:
    """The document that a command prints with --json."""
    code, out, err = run(*arguments, "--json")
    assert code == 0, err
    content: dict[str, Any] = json.loads(out)
    return content


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command line; its exit code, stdout and stderr."""

    def call(*arguments: str) -> tuple[int, str, str]:
        code = run_command(list(arguments))
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


@pytest.fixture
def empty_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home in which nothing has run."""
    monkeypatch.setenv("QANCHOR_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COLUMNS", "120")
    return tmp_path / "home"


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """Events, labels and a model; the real Feast and the real model are replaced."""
    world = make_world(tmp_path)
    monkeypatch.setenv("QANCHOR_HOME", str(world.home.root))
    monkeypatch.setenv("QANCHOR_REPO", str(world.workspace.repo))
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setattr("qanchor.storage.features.FeatureRepository", lambda *_: world.features)
    for module in ("backfill", "refresh"):
        monkeypatch.setattr(
            f"qanchor.embedding.{module}.load_embedder", lambda _site, spaces: world.load(spaces)
        )
    return world
