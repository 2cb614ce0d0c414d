import json
from pathlib import Path

import pytest

from cli.app import run_command
from qanchor.events.labels import read_labels
from qanchor.home import Home

MODALITIES = "modalities: {bill: {text: paid, fields: {}}}\n"
SCENARIOS = "scenarios: {risk: {domain: risk, query: Will it happen at all}}\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "modalities.yaml").write_text(MODALITIES)
    (tmp_path / "scenarios.yaml").write_text(SCENARIOS)
    monkeypatch.setenv("QANCHOR_REPO", str(tmp_path))
    monkeypatch.setenv("QANCHOR_HOME", str(tmp_path / "home"))
    return tmp_path


def csv(folder: Path, label: str = "1") -> Path:
    rows = [f"u{i},2026-03-01,{i % 2},{i // 2 % 3}" for i in range(11)] + [f"u11,2026-03-01,{label},2"]
    path = folder / "labels.csv"
    path.write_text("\n".join(["user_id,as_of,label,fold", *rows]) + "\n")
    return path


def test_labels_load_prints_the_parts_and_warns_on_stderr(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(["labels", "load", "risk", str(csv(folder)), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["rows"], shown["positives"], shown["by"]) == (12, 6, "fold")
    assert (shown["train"], shown["valid"], shown["test"]) == (4, 4, 4)
    assert any("event log is empty" in warning for warning in shown["warnings"])
    assert read_labels(Home(folder / "home"), "risk").content_hash == shown["content_hash"]
    assert run_command(["labels", "load", "risk", str(csv(folder))]) == 0
    assert "warning: The event log is empty" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["risk", "bad.csv"], "error: row 12, column label: 'maybe' is neither 0 nor 1"),
        (["risk", "absent.csv"], "error: there is no file absent.csv"),
        (["nonsense", "bad.csv"], "error: scenario 'nonsense' does not exist. Known: risk."),
    ],
)
def test_a_fault_is_one_line_and_exit_code_2(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    csv(folder, "maybe").rename(folder / "bad.csv")
    monkeypatch.chdir(folder)
    assert run_command(["labels", "load", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (folder / "home" / "labels").exists()


def test_load_all_takes_the_files_named_after_scenarios_and_names_the_rest(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    labels = folder / "labels"
    labels.mkdir()
    csv(folder).rename(labels / "RISK.csv")
    (labels / "other.csv").write_text("user_id,as_of,label\n")
    assert run_command(["labels", "load", "--all", str(labels)]) == 0
    captured = capsys.readouterr()
    assert "risk" in captured.out
    assert "other.csv is not named after a scenario" in captured.err
    assert read_labels(Home(folder / "home"), "risk").table.num_rows == 12


def test_load_all_of_a_folder_without_label_files_is_refused(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(["labels", "load", "--all", str(folder)]) == 2
    assert "The scenarios are: risk." in capsys.readouterr().err


def test_the_old_name_works_and_names_the_new_one(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    labels = folder / "labels"
    labels.mkdir()
    csv(folder).rename(labels / "risk.csv")
    assert run_command(["labels", "load-all", str(labels)]) == 0
    assert "`qanchor-cli labels load --all DIR`" in capsys.readouterr().err


def test_an_incomplete_file_is_refused_or_with_the_option_left_out(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "scenarios.yaml").write_text(
        SCENARIOS.replace("}}", "}, churn: {domain: risk, query: Will it end at all}}")
    )
    labels = folder / "labels"
    labels.mkdir()
    csv(folder).rename(labels / "risk.csv")
    text = "user_id,as_of,label,split\n" + "".join(
        f"u{i},2026-03-01,{i % 2 if part == 'train' else 0},{part}\n"
        for i, part in enumerate(["train", "train", "valid", "test"])
    )
    (labels / "churn.csv").write_text(text)
    assert run_command(["labels", "load", "--all", str(labels)]) == 2
    assert "part valid of churn has only label 0" in capsys.readouterr().err
    assert run_command(["labels", "load", "--all", str(labels), "--skip-incomplete", "--json"]) == 0
    out, err = capsys.readouterr()
    assert [row["scenario"] for row in json.loads(out)] == ["risk"]
    assert "warning: churn.csv is left out: part valid of churn has only label 0" in err
    (labels / "risk.csv").unlink()
    assert run_command(["labels", "load", "--all", str(labels), "--skip-incomplete"]) == 2


@pytest.mark.parametrize("arguments", [(), ("risk",), ("risk", "--all", "labels")])
def test_a_scenario_with_its_file_or_a_folder_is_needed(
    folder: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...]
) -> None:
    assert run_command(["labels", "load", *arguments]) == 2
    assert "Give SCENARIO FILE, or --all DIR." in capsys.readouterr().err
