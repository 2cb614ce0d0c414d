"""Settings: every knob sits in a group, and a mistyped name is refused."""

from pathlib import Path

import pytest

from qanchor.errors import WorkspaceInvalid
from qanchor.settings import load_settings


def test_unknown_variable_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QANCHOR_KAFAK__BROKERS", "x:1")
    with pytest.raises(WorkspaceInvalid, match="QANCHOR_KAFAK__BROKERS is unknown"):
        load_settings()


def test_unknown_knob_of_a_group_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QANCHOR_KAFKA__BROKER", "x:1")
    with pytest.raises(WorkspaceInvalid, match="QANCHOR_KAFKA__BROKER"):
        load_settings()


def test_value_out_of_range_names_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QANCHOR_COMPUTE__THREADS", "-1")
    with pytest.raises(WorkspaceInvalid, match="QANCHOR_COMPUTE__THREADS"):
        load_settings()


def test_home_is_the_same_from_the_repository_and_from_beside_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    repo = tmp_path / "feature_repo"
    repo.mkdir()
    (repo / "modalities.yaml").touch()
    monkeypatch.delenv("QANCHOR_HOME", raising=False)
    monkeypatch.delenv("QANCHOR_REPO", raising=False)
    homes = []
    for place in (tmp_path, repo):
        monkeypatch.chdir(place)
        homes.append(load_settings().state.root)
    assert homes == [tmp_path / ".qanchor"] * 2


def test_environment_sets_home_and_groups(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("QANCHOR_HOME", str(tmp_path))
    monkeypatch.setenv("QANCHOR_KAFKA__FLUSH_EVENTS", "7")
    settings = load_settings()
    assert settings.database_url == f"sqlite:///{tmp_path / 'qanchor.db'}"
    assert settings.kafka.flush_events == 7
