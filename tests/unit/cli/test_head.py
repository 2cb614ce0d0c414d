import json
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from cli.app import run_command
from tests.unit.heads.fakes import World, add_manifest, small_workspace, small_world


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    (tmp_path / "modalities.yaml").write_text("modalities: {bill: {text: paid, fields: {}}}\n")
    (tmp_path / "scenarios.yaml").write_text(
        "scenarios: {risk: {domain: risk, query: Will it happen at all},"
        " idle: {domain: risk, query: Will it ever be idle}}\n"
    )
    monkeypatch.setenv("QANCHOR_REPO", str(tmp_path))
    monkeypatch.setenv("QANCHOR_HOME", str(tmp_path / "home"))
    made = small_world(tmp_path)
    add_manifest(made)
    around = replace(made.around, workspace=small_workspace(tmp_path, ("risk", "idle")))
    for module in ("cli.head", "cli.head_audit", "cli.head_explain"):
        monkeypatch.setattr(f"{module}.surroundings", lambda context: around)
    return made


def test_heads_are_trained_for_all_scenarios_that_have_labels(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(["head", "train", "--all", "--features", "embedding", "--json"]) == 0
    (card,) = json.loads(capsys.readouterr().out)
    assert (card["scenario"], card["groups"], card["test_fold"]) == ("risk", ["embedding"], 4)


def test_scores_go_to_a_file_or_to_the_screen(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(["head", "train", "--scenario", "risk", "--features", "embedding"]) == 0
    capsys.readouterr()
    users, out = tmp_path / "users.txt", tmp_path / "scores.parquet"
    users.write_text("u0001\nstranger\n")
    arguments = ["head", "score", "--scenario", "risk", "--users", str(users), "--json"]
    assert run_command([*arguments, "--out", str(out)]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["store"], shown["users"], shown["no_vector"]) == ("online", 2, 1)
    assert pq.read_table(out)["user_id"].to_pylist() == ["u0001", "stranger"]
    assert run_command([*arguments, "--from", "offline", "--as-of", "2026-03-01"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["store"], shown["as_of"]) == ("offline", "2026-03-01T00:00:00+00:00")
    assert len(shown["scores"]) == 2


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["train"], 2, "no scenario is given"),
        (["train", "--scenario", "nonsense"], 2, "scenario 'nonsense' does not exist"),
        (["train", "--scenario", "idle"], 3, "labels load idle FILE"),
        (["train", "--scenario", "risk", "--test-fold", "9"], 2, "no fold 9"),
        (["score", "--scenario", "risk"], 3, "head train --scenario risk"),
    ],
)
def test_a_fault_is_one_line_with_its_exit_code(
    world: World, capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, message: str
) -> None:
    assert run_command(["head", *arguments]) == code
    error = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(error) == 1
    assert message in error[0]
