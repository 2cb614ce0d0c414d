"""From a log of events and labels to a registered model and prompts, by the commands."""

import json
import shutil
from datetime import timedelta
from pathlib import Path

import pandas as pd
import pytest
import yaml

from cli.app import run_command
from qanchor.home import Home
from qanchor.model.checkpoint import load_model
from qanchor.model.soft_prompt import load_prompt
from tests.integration.stored_models import store_decoder, store_text_encoder
from tests.unit.training.worlds import UNTIL, tiny_events, tiny_workspace

pytestmark = pytest.mark.integration


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    workspace = tiny_workspace()
    repo = tmp_path / "repo"
    repo.mkdir()
    modalities = {name: spec.model_dump(mode="json") for name, spec in workspace.modalities.items()}
    scenarios = {name: spec.model_dump(mode="json") for name, spec in workspace.scenarios.items()}
    content = {"window_days": workspace.window_days, "modalities": modalities}
    (repo / "modalities.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    (repo / "scenarios.yaml").write_text(yaml.safe_dump({"scenarios": scenarios}, sort_keys=False))
    for name, value in (("REPO", repo), ("HOME", tmp_path / "home"), ("COMPUTE__THREADS", "1")):
        monkeypatch.setenv(f"QANCHOR_{name}", str(value))
    tiny_events(users=40).to_parquet(tmp_path / "events.parquet", index=False)
    assert run_command(["events", "load", str(tmp_path / "events.parquet")]) == 0
    return Home(tmp_path / "home")


def _load_labels(home: Home, scenario: str) -> None:
    users = range(40)
    table = pd.DataFrame(
        {
            "user_id": [f"u{i:03d}" for i in users],
            "as_of": [UNTIL + timedelta(days=i % 5) for i in users],
            "label": [int(i % 2 == 0) for i in users],
            "split": [("train", "valid", "test")[(i // 2) % 3] for i in users],
        }
    )
    path = home.root / f"{scenario}-labels.parquet"
    table.to_parquet(path, index=False)
    assert run_command(["labels", "load", scenario, str(path)]) == 0


def test_pretrain_and_tune_leave_a_model_and_prompts_that_load(
    home: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    for scenario in ("sails", "sings"):
        _load_labels(home, scenario)
    capsys.readouterr()
    assert run_command(["pretrain", "--steps", "4", "--points", "16", "--json"]) == 0
    model = json.loads(capsys.readouterr().out)
    loaded = load_model(home.root / model["path"], "cpu", "float32")
    assert loaded.metadata["version"] == model["version"]
    # The test users are held out and the visible log ends at the first label that is no training row.
    assert model["metrics"]["users"] == 28
    assert not (home.cache / "pretrain").exists()
    assert run_command(["tune", "--all", "--steps", "4", "--tokens", "2", "--json"]) == 0
    prompts = json.loads(capsys.readouterr().out)
    assert [row["scenario"] for row in prompts] == ["sails", "sings"]
    for row in prompts:
        stored = load_prompt(home.models / model["version"] / "prompts" / row["prompt"])
        assert stored.prompt.vectors.shape[0] == 2
        assert stored.metadata["model_hash"] == loaded.content_hash
    assert run_command(["tune", "--scenario", "sails", "--steps", "2", "--tokens", "1", "--json"]) == 0
    newer = json.loads(capsys.readouterr().out)[0]["prompt"]
    assert run_command(["tune", "--scenario", "sails", "--use", prompts[0]["prompt"], "--json"]) == 0
    used = json.loads(capsys.readouterr().out)
    assert used["prompt"] == prompts[0]["prompt"] != newer
    assert used["fits_model"]
    assert run_command(["tune", "--all", "--use", newer]) == 2
    assert "Give one --scenario" in capsys.readouterr().err


def test_a_built_set_is_trained_on_to_the_end_with_nested_widths(
    home: Home, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    until, pairs = ("--until", UNTIL.isoformat()), tmp_path / "pairs"
    assert run_command(["useru", "build", *until, "--horizons", "7,14", "--out", str(pairs)]) == 0
    capsys.readouterr()
    train = ["pretrain", *until, "--pairs", str(pairs), "--steps", "3", "--points", "16", "--json"]
    assert run_command([*train, "--widths", "32,64"]) == 0
    result = json.loads(capsys.readouterr().out)
    metrics = result["metrics"]
    assert (metrics["steps"], metrics["widths"]) == (3, [32, 64, 128])
    loaded = load_model(home.root / result["path"])
    assert loaded.config.nested_widths == (32, 64)
    assert loaded.metadata["config"]["pairs"] == str(pairs)


@pytest.mark.parametrize("widths", ["wide", "32,,64", "0", "129"])
def test_widths_that_do_not_hold_are_refused_in_one_line(
    home: Home, capsys: pytest.CaptureFixture[str], widths: str
) -> None:
    capsys.readouterr()
    code = run_command(["pretrain", "--until", UNTIL.isoformat(), "--steps", "1", "--widths", widths])
    error = capsys.readouterr().err.strip().splitlines()
    assert code == 2
    assert "width" in error[-1]
    assert "Traceback" not in "".join(error)


def test_preset_paper_trains_on_folders_and_its_merged_model_needs_them_no_more(
    home: Home, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sources = store_decoder(tmp_path / "qwen3", "qwen3"), store_text_encoder(tmp_path / "bert")
    command = ["pretrain", "--until", f"{UNTIL:%Y-%m-%d}", "--preset", "paper", "--steps", "2"]
    command += ["--backbone", str(sources[0]), "--text-encoder", str(sources[1]), "--points", "8"]
    capsys.readouterr()
    assert run_command([*command, "--grad-cache", "3", "--merge", "--json"]) == 0
    model = json.loads(capsys.readouterr().out)
    for folder in sources:
        shutil.rmtree(folder)
    loaded = load_model(home.root / model["path"], "cpu", "float32")
    assert loaded.config.preset == "paper"
    assert loaded.config.backbone.lora is None
    assert (home.root / model["path"] / "loss.png").stat().st_size > 5_000
    assert not (home.cache / "pretrain").exists()


def test_a_stored_model_that_is_not_there_is_named(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["pretrain", "--until", f"{UNTIL:%Y-%m-%d}", "--steps", "2"]
    assert run_command([*command, "--backbone", "somebody/no-such-model"]) == 3
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: somebody/no-such-model cannot be loaded from this machine")
    assert "--backbone" in error
    assert run_command([*command, "--form", "prose"]) == 2
    assert "Use paper or code" in capsys.readouterr().err


def test_how_much_of_a_history_is_hidden_decides_the_model(
    home: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    losses = []
    for hidden in ([], ["--event-dropout", "0.9"]):
        command = ["pretrain", "--until", f"{UNTIL:%Y-%m-%d}", "--steps", "2", "--points", "16", "--json"]
        assert run_command([*command, *hidden]) == 0
        losses.append(json.loads(capsys.readouterr().out)["metrics"]["summary_loss"])
    assert losses[0] != losses[1]


def test_steps_that_come_too_early_say_what_comes_first(
    home: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(["pretrain", "--steps", "2"]) == 2
    assert "--until" in capsys.readouterr().err
    assert run_command(["pretrain", "--until", "yesterday"]) == 2
    assert run_command(["pretrain", "--event-dropout", "1"]) == 2
    assert "--event-dropout" in capsys.readouterr().err
    assert run_command(["tune", "--scenario", "sails"]) == 3
    assert "labels load" in capsys.readouterr().err
    _load_labels(home, "sails")
    assert run_command(["tune", "--scenario", "sails"]) == 3
    assert "qanchor-cli pretrain" in capsys.readouterr().err
    assert run_command(["tune", "--scenario", "swims"]) == 2
