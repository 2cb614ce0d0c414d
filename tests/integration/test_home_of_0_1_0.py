"""A home that 0.1.0 wrote (commit d64b087; 90 users, two scenarios) is read, upgraded once and written to."""

import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cli.app import run_command
from qanchor.registry import migrate
from qanchor.registry.session import open_engine

_ROOT = Path(__file__).resolve().parents[2]
_PACKED = _ROOT / "tests" / "fixtures" / "home_0_1_0.tar.xz"
_WRITTEN_AT = "0005"

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]


class Workspace:
    """The unpacked workspace, and commands of today's qanchor that run in it."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder = folder
        self._capsys = capsys
        with tarfile.open(_PACKED) as packed:
            packed.extractall(folder, filter="data")

    def run(self, *command: str) -> tuple[str, str]:
        """Run one command; what it prints on stdout and stderr."""
        self._capsys.readouterr()
        code = run_command([*command])
        out, err = self._capsys.readouterr()
        assert code == 0, err
        return out, err

    def json(self, *command: str) -> Any:
        """What a command prints as JSON."""
        return json.loads(self.run(*command, "--json")[0])


@pytest.fixture
def workspace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Workspace:
    unpacked = Workspace(tmp_path, capsys)
    monkeypatch.setenv("QANCHOR_COMPUTE__THREADS", "1")
    monkeypatch.chdir(tmp_path / "feature_repo")
    return unpacked


def test_what_was_stored_answers_as_it_did(workspace: Workspace) -> None:
    coffee = ("--scenario", "coffee")
    out = workspace.folder / "again.json"
    workspace.run("head", "score", *coffee, "--as-of", "2026-04-06", "--out", str(out))
    before = json.loads((workspace.folder / "scores.json").read_text())
    after = json.loads(out.read_text())
    assert [row["user_id"] for row in after] == [row["user_id"] for row in before]
    np.testing.assert_allclose(
        [row["score"] for row in after], [row["score"] for row in before], rtol=0, atol=1e-9
    )
    seeds = str(workspace.folder / "seeds.txt")
    lookalikes = workspace.json("lookalike", *coffee, "--seeds", seeds, "-k", "5")
    expected = json.loads((workspace.folder / "lookalikes.json").read_text())
    assert lookalikes["users"] == expected["users"]
    workspace.run("head", "refit", *coffee)
    assert "likes" in workspace.run("audience", "list")[0]
    workspace.run("audience", "replay", "likes")
    workspace.run("head", "list", *coffee)
    workspace.run("index", "show", "--all")
    history = workspace.json("monitor", *coffee, "--history", "5")
    assert history


def test_it_is_written_to_by_every_step(workspace: Workspace) -> None:
    workspace.run("verify", "--all")
    workspace.run("labels", "load", "coffee", str(workspace.folder / "coffee.csv"))
    workspace.run("refresh", "--all")
    workspace.run("backfill", "--all", "--as-of", "2026-04-07")
    workspace.run("index", "update", "--all")
    workspace.run("verify", "--all")
    workspace.run("rollback", "--scenario", "coffee")
    workspace.run("tune", "--scenario", "coffee", "--steps", "2")
    kinds = {job["kind"] for job in workspace.json("jobs", "list")}
    assert {"backfill", "refresh"} <= kinds


def test_the_registry_is_upgraded_once_and_says_so(workspace: Workspace) -> None:
    if migrate.HEAD == _WRITTEN_AT:
        pytest.skip("no schema has been added since 0.1.0")
    (_, first), (_, second) = workspace.run("status"), workspace.run("status")
    (line,) = [line for line in first.splitlines() if "upgraded" in line]
    assert f"{_WRITTEN_AT} to {migrate.HEAD}" in line
    assert second == ""


def test_an_upgrade_that_is_killed_leaves_the_old_schema_and_can_be_repeated(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    if migrate.HEAD == _WRITTEN_AT:
        pytest.skip("no schema has been added since 0.1.0")
    url = f"sqlite:///{workspace.folder / '.qanchor' / 'qanchor.db'}"
    run = migrate.run_alembic

    class Killed(BaseException):
        """Stands for the end of the process: nothing catches it."""

    def killed(connection: Any) -> None:
        run(connection)  # every statement has run, and none is committed
        raise Killed

    monkeypatch.setattr(migrate, "run_alembic", killed)
    engine = open_engine(url)
    with pytest.raises(Killed):
        migrate.prepare(engine, url)
    engine.dispose()
    assert migrate.current(url) == _WRITTEN_AT
    monkeypatch.setattr(migrate, "run_alembic", run)
    assert migrate.upgrade(url) == migrate.HEAD
    workspace.run("status")
