import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from cli.app import run_command
from qanchor.metrics import FIGURES
from qanchor.site import Site
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
    site = made.site.with_parts(workspace=small_workspace(tmp_path, ("risk", "idle")))
    monkeypatch.setattr(Site, "open", lambda: site)
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
    assert (shown["store"], shown["as_of"]) == ("offline", "2026-03-01T00:00:00Z")
    assert len(shown["scores"]) == 2


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["train"], 2, "no scenario is given"),
        (["train", "--scenario", "nonsense"], 2, "scenario 'nonsense' does not exist"),
        (["train", "--scenario", "idle"], 3, "labels load idle FILE"),
        (["train", "--scenario", "risk", "--test-fold", "9"], 2, "no fold 9"),
        (["score", "--scenario", "risk"], 3, "head train --scenario risk"),
        (["compare", "--scenario", "risk"], 3, "head train --scenario risk"),
        (["promote", "--scenario", "risk", "--head", "2020"], 3, "risk has no head '2020'"),
        (["refit", "--scenario", "risk"], 3, "head train --scenario risk"),
        (["explain", "--scenario", "risk", "--user", "u1"], 3, "head train --scenario risk"),
        (["list", "--scenario", "nonsense"], 2, "scenario 'nonsense' does not exist"),
        (
            ["train", "--scenario", "risk", "--monotone", "prof_limit=up"],
            2,
            "is not FEATURE=+1 or FEATURE=-1",
        ),
        (["train", "--scenario", "risk", "--monotone", "typo=1"], 2, "'typo' names no feature"),
        (["train", "--scenario", "risk", "--split", "time"], 2, "all have the same time, 2026-03-01"),
    ],
)
def test_a_fault_is_one_line_with_its_exit_code(
    world: World, capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, message: str
) -> None:
    assert run_command(["head", *arguments]) == code
    error = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(error) == 1
    assert message in error[0]


def json_of(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> Any:
    capsys.readouterr()
    assert run_command(["head", *arguments, "--scenario", "risk", "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_a_challenger_is_compared_promoted_listed_and_fitted_again(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    (first,) = json_of(["train", "--features", "activity"], capsys)
    asked = ["--features", "all", "--seeds", "2", "--search-seconds", "0.1", "--class-weight", "balanced"]
    (second,) = json_of(["train", *asked, "--calibration", "sigmoid", "--monotone", "prof_limit=+1"], capsys)
    assert (first["champion"], second["champion"]) == (True, False)
    assert (len(second["rounds"]), second["options"]["monotone"]) == (2, {"prof_limit": 1})
    found = json_of(["compare"], capsys)
    assert (found["champion"], found["challenger"]) == (first["version"], second["version"])
    assert 0 <= found["auc_test"]["p_value"] <= 1
    assert set(found["differences"]) == set(FIGURES)
    assert json_of(["promote"], capsys)["champion"] == second["version"]
    roles = {row["version"]: row["role"] for row in json_of(["list"], capsys)}
    assert roles == {second["version"]: "champion", first["version"]: "challenger"}
    assert json_of(["refit"], capsys)["exact"] is True


def test_tables_say_in_words_what_json_says(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    for features in ("activity", "all"):
        assert run_command(["head", "train", "--scenario", "risk", "--features", features]) == 0
    shown = capsys.readouterr().out
    assert "risk: a challenger: see `qanchor-cli head compare --scenario risk`" in shown
    for command, words in (
        ("compare", "DeLong p ="),
        ("list", "champion"),
        ("refit", "comes out the same on its 240 rows"),
        ("promote", "is the champion, AUC 0."),
    ):
        assert run_command(["head", command, "--scenario", "risk"]) == 0
        assert words in capsys.readouterr().out


def test_a_score_is_explained_by_groups_that_add_up(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["head", "train", "--scenario", "risk"]) == 0
    found = json_of(["explain", "--user", "u0003", "--events", "0", "--features", "4"], capsys)
    assert found["base"] + sum(found["groups"].values()) == pytest.approx(found["raw"], abs=1e-9)
    assert (found["user"], len(found["features"]), found["raised"]) == ("u0003", 4, [])


def test_a_user_without_features_is_named(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["head", "train", "--scenario", "risk"]) == 0
    capsys.readouterr()
    assert run_command(["head", "explain", "--scenario", "risk", "--user", "nobody"]) == 3
    assert "error: user 'nobody' has no features of risk" in capsys.readouterr().err
