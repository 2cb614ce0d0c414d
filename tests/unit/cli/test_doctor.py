"""`doctor` names what is missing and what to do, and fails only where qanchor cannot do without."""

import json
import socket
from pathlib import Path

import pytest

from qanchor import diagnosis
from tests.unit.cli.conftest import Run
from tests.unit.embedding.world import World


def _states(run: Run) -> tuple[int, dict[str, str]]:
    code, out, _ = run("doctor", "--json")
    return code, {row["check"]: row["state"] for row in json.loads(out)["findings"]}


def test_a_fresh_workspace_is_healthy(world: World, run: Run) -> None:
    code, states = _states(run)
    assert code == 0
    assert "missing" not in states.values()
    assert (states["event log"], states["database"], states["kafka broker"]) == ("ok", "ok", "warn")


def test_nothing_is_made_by_looking(empty_home: Path, run: Run) -> None:
    run("doctor")
    assert not empty_home.exists()


def test_a_missing_repository_fails_with_its_remedy(
    empty_home: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QANCHOR_REPO", str(empty_home))
    code, out, _ = run("doctor")
    assert code == 1
    assert "qanchor-cli new DIR" in out
    assert "missing: repository" in out


def test_a_missing_package_fails(world: World, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diagnosis, "_PACKAGES", ("torch", "no-such-package"))
    code, out, _ = run("doctor")
    assert (code, "without no-such-package" in out) == (1, True)


def test_a_database_that_does_not_answer_fails(
    world: World, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QANCHOR_DATABASE__URL", "postgresql+psycopg://127.0.0.1:1/x")
    code, states = _states(run)
    assert (code, states["database"]) == (1, "missing")


def test_a_broker_that_answers_is_ok(world: World, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("QANCHOR_KAFKA__BROKERS", f"nonsense,127.0.0.1:{server.getsockname()[1]}")
        assert _states(run)[1]["kafka broker"] == "ok"


@pytest.mark.parametrize(("free", "state"), [(2**20, "missing"), (3 * 2**30, "warn"), (2**40, "ok")])
def test_disk_space_decides(
    world: World, run: Run, monkeypatch: pytest.MonkeyPatch, free: int, state: str
) -> None:
    usage = type("Usage", (), {"free": free})
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage)
    assert _states(run)[1]["disk"] == state
