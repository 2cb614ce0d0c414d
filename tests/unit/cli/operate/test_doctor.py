"""`doctor` names what is missing and what to do, and fails only where qanchor cannot do without."""

import json
import socket
from pathlib import Path

import pytest

from qanchor.diagnosis import diagnose
from qanchor.registry.session import transaction
from qanchor.registry.tables import LedgerFile
from qanchor.settings import load_settings
from tests.integration.brokers import threaded_broker
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


def _files(folder: Path) -> dict[str, tuple[int, bytes]]:
    return {
        str(path): (path.stat().st_mtime_ns, path.read_bytes())
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_a_home_that_does_not_exist_is_not_created(empty_home: Path, run: Run) -> None:
    run("doctor")
    run("db", "current")
    assert not empty_home.exists()


@pytest.mark.parametrize("content", [None, b""])
def test_a_database_is_only_read(empty_home: Path, run: Run, content: bytes | None) -> None:
    if content is None:
        run("db", "upgrade")
    else:
        empty_home.mkdir()
        (empty_home / "qanchor.db").write_bytes(content)
    before = _files(empty_home)
    run("doctor")
    run("db", "current")
    assert _files(empty_home) == before
    assert list(empty_home.iterdir()) == [empty_home / "qanchor.db"]


def test_a_file_that_is_no_database_is_named(empty_home: Path, run: Run) -> None:
    empty_home.mkdir()
    (empty_home / "qanchor.db").write_bytes(b"garbage, not a database" * 100)
    assert _states(run)[1]["database"] == "missing"
    code, _, err = run("status")
    assert (code, err.count("\n")) == (4, 1)
    assert "not a database" in err


def test_a_missing_repository_fails_with_its_remedy(
    empty_home: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QANCHOR_REPO", str(empty_home))
    code, out, _ = run("doctor")
    assert code == 1
    assert "qanchor-cli new DIR" in out
    assert "missing: repository" in out


def test_a_missing_package_is_missing(world: World) -> None:
    findings = {each.check: each for each in diagnose(load_settings(), ("torch", "no-such-package"))}
    packages = findings["packages"]
    assert (packages.state, packages.value) == ("missing", "without no-such-package")


def test_a_database_that_does_not_answer_fails(
    world: World, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QANCHOR_DATABASE__URL", "postgresql+psycopg://127.0.0.1:1/x")
    code, states = _states(run)
    assert (code, states["database"]) == (1, "missing")


def test_a_broker_that_answers_is_ok(
    world: World, run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with threaded_broker(tmp_path / "broker") as broker:
        monkeypatch.setenv("QANCHOR_KAFKA__BROKERS", f"nonsense,{broker.address}")
        assert _states(run)[1]["kafka broker"] == "ok"


def test_what_listens_and_is_no_broker_is_not_ok(
    world: World, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("QANCHOR_KAFKA__BROKERS", f"127.0.0.1:{server.getsockname()[1]}")
        assert _states(run)[1]["kafka broker"] == "warn"


@pytest.mark.parametrize(("free", "state"), [(2**20, "missing"), (3 * 2**30, "warn"), (2**40, "ok")])
def test_disk_space_decides(
    world: World, run: Run, monkeypatch: pytest.MonkeyPatch, free: int, state: str
) -> None:
    usage = type("Usage", (), {"free": free})
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage)
    assert _states(run)[1]["disk"] == state


def test_lines_fit_80_columns_and_no_word_is_broken(
    empty_home: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    _, out, _ = run("doctor")
    for line in out.splitlines():
        assert len(line) <= 80 or len(line[23:].removeprefix("-> ").split()) == 1, line
    monkeypatch.setenv("COLUMNS", "400")
    _, wide, _ = run("doctor")
    assert max(map(len, wide.splitlines())) > 80
    assert " ".join(out.split()) == " ".join(wide.split())
    assert all(line.count("`") % 2 == 0 for line in out.splitlines())  # a command stays whole


def test_what_was_deleted_behind_the_registry_is_named_with_what_to_run(world: World, run: Run) -> None:
    assert json.loads(run("events", "stats", "--json")[1])["lost"] == []
    with transaction(world.engine) as session:
        session.add(LedgerFile(name="w1-1-1.parquet", event_date="2026-01-01", rows=7, state="published"))
    for command in (("doctor",), ("status",), ("events", "stats")):
        code, out, _ = run(*command)
        text = " ".join(out.split())
        assert "7 events of 2026-01-01 are gone with event_date=2026-01-01/w1-1-1.parquet" in text
        assert "Restore the files from a backup" in text
        assert code == (1 if command == ("doctor",) else 0)
    (lost,) = json.loads(run("events", "stats", "--json")[1])["lost"]
    assert lost["kind"] == "events"
    states = _states(run)[1]
    assert (states["lost events"], states["lost model"]) == (
        "missing",
        "warn",
    )  # the world has no model folder
    text = run("status")[1]
    assert "qanchor-cli pretrain" in text
