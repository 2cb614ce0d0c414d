"""Feast's state has one place, whichever way Feast is called."""

import ast
from pathlib import Path

import click
import pytest
from sqlalchemy import create_engine, text

from qanchor.errors import WorkspaceInvalid
from qanchor.storage.feast_ext.home import home_of
from qanchor.storage.feast_ext.registry import PLUGIN, register

_TEMPLATE = Path(__file__).parents[4] / "feature_repo"


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("QANCHOR_HOME", "QANCHOR_REPO"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)


def test_state_lies_beside_the_repository_that_feast_was_told(tmp_path: Path) -> None:
    assert home_of(tmp_path / "mine" / "feature_repo").root == tmp_path / "mine" / ".qanchor"


def test_qanchor_home_wins_over_the_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QANCHOR_HOME", str(tmp_path / "state"))
    assert home_of(tmp_path / "mine" / "feature_repo").root == tmp_path / "state"


def test_the_folder_of_feast_chdir_is_the_repository(tmp_path: Path) -> None:
    with click.Context(click.Command("feast"), obj={"CHDIR": tmp_path / "far" / "feature_repo"}):
        assert home_of(None).root == tmp_path / "far" / ".qanchor"


def test_the_working_folder_counts_where_it_is_a_repository(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "feature_repo").mkdir()
    (tmp_path / "feature_repo" / "modalities.yaml").touch()
    assert home_of(None).root == tmp_path / ".qanchor"
    monkeypatch.chdir(tmp_path / "feature_repo")
    assert home_of(None).root == tmp_path / ".qanchor"


def test_state_is_never_put_beside_a_folder_that_is_no_repository(tmp_path: Path) -> None:
    with pytest.raises(WorkspaceInvalid, match="QANCHOR_HOME"):
        home_of(None)
    assert list(tmp_path.iterdir()) == []


def test_the_registry_lies_in_the_home_and_lets_readers_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QANCHOR_HOME", str(tmp_path / "state"))
    register()
    engine = create_engine(f"sqlite:///feast_registry.db?plugin={PLUGIN}")
    with engine.connect() as connection:
        assert connection.execute(text("PRAGMA journal_mode")).scalar() == "wal"
    engine.dispose()
    assert (tmp_path / "state" / "feast_registry.db").exists()


def test_definitions_import_nothing_but_feast_and_light_modules() -> None:
    tree = ast.parse((_TEMPLATE / "definitions.py").read_text(encoding="utf-8"))
    found = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    found |= {name.name for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names}
    assert found <= {
        "datetime",
        "pathlib",
        "feast",
        "feast.data_format",
        "feast.types",
        "qanchor",
        "qanchor.home",
        "qanchor.site",
        "qanchor.storage.spaces",
        "qanchor.workspace",
    }


def test_the_feature_repository_holds_one_python_file() -> None:
    # `feast apply` executes every Python file below its folder.
    assert [path.name for path in _TEMPLATE.rglob("*.py")] == ["definitions.py"]
