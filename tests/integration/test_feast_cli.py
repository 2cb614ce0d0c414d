"""Feast's own command line in the shipped feature repository, as a platform engineer types it."""

import os
import shutil
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from qanchor.home import Home
from qanchor.storage.features import FeatureRepository
from qanchor.workspace import load_workspace
from tests.unit.storage.rows import VIEW, embedding_rows

pytestmark = [pytest.mark.integration, pytest.mark.slow]
_T = datetime(2026, 3, 1, tzinfo=UTC)
_TEMPLATE = Path(__file__).parents[2] / "feature_repo"


@pytest.fixture(scope="module")
def repo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the shipped feature repository."""
    folder = tmp_path_factory.mktemp("project") / "feature_repo"
    shutil.copytree(_TEMPLATE, folder, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def _feast(folder: Path, *arguments: str, **environment: str) -> str:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("QANCHOR_")}
    done = subprocess.run(
        [str(Path(sys.executable).with_name("feast")), *arguments],
        cwd=folder,
        env={**kept, "PYTHONWARNINGS": "ignore", **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def _feast_here(*arguments: str) -> str:
    from click.testing import CliRunner
    from feast.cli.cli import cli

    done = CliRunner().invoke(cli, list(arguments), catch_exceptions=False)
    assert done.exit_code == 0, done.output
    output: str = done.output
    return output


def _names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} - {"__pycache__"}


def _serves(home: Home, user: str) -> bool:
    features = FeatureRepository(load_workspace(_TEMPLATE), home)
    served = features.online([user], [f"{VIEW}:n_events"], at=_T)[f"{VIEW}__n_events"]
    features.close()
    return bool(served.null_count == 0)


def test_apply_plan_and_materialize_in_the_repository(repo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = Home(repo.parent / ".qanchor")
    assert "Deploying infrastructure for user_emb_fraud" in _feast(repo, "apply")
    monkeypatch.delenv("QANCHOR_HOME", raising=False)
    monkeypatch.syspath_prepend(repo)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.chdir(repo)
    planned = _feast_here("plan")
    assert "No changes to registry" in planned
    assert "No changes to infrastructure" in planned
    features = FeatureRepository(load_workspace(repo), home)
    features.write_part(VIEW, embedding_rows([("a", _T, _T)]), "p")
    _feast_here("materialize", "2026-02-01T00:00:00", "2026-03-02T00:00:00", "-v", VIEW)
    assert _serves(home, "a")
    features.write_part(VIEW, embedding_rows([("b", _T, datetime(2026, 3, 2, 1, tzinfo=UTC))]), "late")
    _feast_here("materialize-incremental", "2026-03-03T00:00:00", "-v", VIEW)
    assert _serves(home, "b")
    assert {path.name for path in repo.iterdir()} == _names(_TEMPLATE)


def test_apply_from_elsewhere_puts_state_into_the_home(repo: Path, tmp_path: Path) -> None:
    home = tmp_path / "state"
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    _feast(elsewhere, "-c", str(repo), "apply", QANCHOR_HOME=str(home))
    assert {"feast_registry.db", "features", "online.db"} <= {path.name for path in home.iterdir()}
    assert list(elsewhere.iterdir()) == []


def test_the_production_profile_applies(repo: Path, tmp_path: Path) -> None:
    # Redis is asked for nothing by apply; PostgreSQL's place is taken by another SQL database.
    url = f"sqlite:///{tmp_path / 'registry.db'}"
    _feast(
        repo,
        *("-f", str(repo / "profiles" / "production.yaml"), "apply"),
        QANCHOR_HOME=str(tmp_path / "state"),
        FEAST_REGISTRY_URL=url,
        FEAST_REDIS="127.0.0.1:1",
    )
    assert (tmp_path / "registry.db").exists()
    assert (tmp_path / "state" / "features" / VIEW / "empty.parquet").exists()


@pytest.mark.skipif(
    not (os.environ.get("QANCHOR_TEST_POSTGRES") and os.environ.get("QANCHOR_TEST_REDIS")),
    reason="no PostgreSQL or no Redis: make services",
)
def test_the_production_profile_materializes_and_serves(
    repo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sqlalchemy as sa

    url = os.environ["QANCHOR_TEST_POSTGRES"]
    server = sa.create_engine(url, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
    with server.connect() as connection:
        connection.execute(sa.text("DROP DATABASE IF EXISTS feast_profile WITH (FORCE)"))
        connection.execute(sa.text("CREATE DATABASE feast_profile"))
    profile = repo / "profiles" / "production.yaml"
    monkeypatch.setenv("QANCHOR_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("FEAST_REGISTRY_URL", url.rsplit("/", 1)[0] + "/feast_profile")
    monkeypatch.setenv("FEAST_REDIS", os.environ["QANCHOR_TEST_REDIS"])
    monkeypatch.setenv("FEAST_FS_YAML_FILE_PATH", str(profile))
    features = FeatureRepository(load_workspace(repo), Home(tmp_path / "state"))
    features.apply()
    rows = [("prod-a", _T, _T), ("prod-b", _T, _T)]
    features.write_part(VIEW, embedding_rows(rows), "p")
    assert features.materialize([VIEW], _T) == {VIEW: 2}
    served = features.online(["prod-b", "nobody", "prod-a"], [f"{VIEW}:n_events", f"{VIEW}:emb_fraud"], at=_T)
    assert served[f"{VIEW}__n_events"].to_pylist() == [1, None, 0]
    assert served["emb_fraud"].to_pylist() == [[1.0] * 128, None, [0.0] * 128]
    # A new model's vectors of the same cut-off replace the old ones.
    features.write_part(VIEW, embedding_rows([("x", _T, _T), *rows]).slice(1), "p")
    features.materialize([VIEW], _T)
    assert features.online(["prod-a"], [f"{VIEW}:n_events"], at=_T)[f"{VIEW}__n_events"].to_pylist() == [1]
    features.store.teardown()
    features.close()
