"""`qanchor-cli events`: what people and programs see."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cli.app import run_command

_REPO = Path(__file__).parents[4] / "feature_repo"


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QANCHOR_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("QANCHOR_REPO", str(_REPO))


def _file(path: Path, pages: list[str | None]) -> Path:
    rows = {
        "user_id": [f"u{i}" for i in range(len(pages))],
        "event_time": ["2026-01-01T00:00:00Z"] * len(pages),
        "modality": ["spm"] * len(pages),
        "page": pages,
    }
    pq.write_table(pa.table(rows), path)
    return path


def test_a_load_shows_what_became_of_the_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = _file(tmp_path / "visits.parquet", ["home", "card", None])
    assert run_command(["events", "load", str(path)]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "accepted: spm 2 rejected: missing_field 1 total 3" in shown
    assert "rejected rows with reasons:" in shown
    assert run_command(["events", "load", str(path)]) == 0
    assert "nothing to add" in capsys.readouterr().out


def test_json_has_the_same_figures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["events", "stats"]) == 0
    assert "is empty" in capsys.readouterr().out
    assert run_command(["events", "load", str(_file(tmp_path / "v.parquet", ["a", "b"])), "--json"]) == 0
    loaded = json.loads(capsys.readouterr().out)
    assert (loaded["accepted"], loaded["rejected"], loaded["modalities"]) == (2, 0, {"spm": 2})
    assert run_command(["events", "stats", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)["modalities"]
    assert (row["modality"], row["events"], row["users"], row["first"]) == (
        "spm",
        2,
        2,
        "2026-01-01T00:00:00Z",
    )


@pytest.mark.parametrize(
    ("name", "content"), [("none.csv", None), ("empty.csv", ""), ("odd.csv", "a,b\n1,2\n")]
)
def test_an_unusable_file_is_one_line_and_exit_code_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, content: str | None
) -> None:
    if content is not None:
        (tmp_path / name).write_text(content)
    assert run_command(["events", "load", str(tmp_path / name)]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    assert captured.out == ""


def test_compact_says_what_became_of_the_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a", "b", "c"):
        run_command(["events", "load", str(_file(tmp_path / f"{name}.parquet", [name]))])
    assert run_command(["events", "compact", "--older-than", "1"]) == 0
    assert "Nothing to compact." in capsys.readouterr().out
    assert run_command(["events", "compact"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "Compacted 1 event dates before after files 3 1 events 3 3" in shown
    assert "replaced files: 0 deleted, 3 kept for their grace period" in shown
    assert run_command(["events", "compact", "--grace", "0", "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert (summary["dates"], summary["deleted"], summary["waiting"]) == ([], 3, 0)


def test_compact_refuses_a_date_that_is_none(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["events", "compact", "--before", "yesterday"]) == 2
    assert "yesterday" in capsys.readouterr().err
