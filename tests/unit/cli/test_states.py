"""Commands in states that a home gets into: each ends with one line and an exit code, without a traceback."""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cli.app import run_command
from qanchor.events.activity import activity_table, profile_table
from qanchor.events.history import load_event_arrays
from qanchor.site import Site

_FIELDS = (
    "moment",
    "kind",
    "uid",
    "rendered",
    "request",
    "row",
    "id",
    "content",
    "part",
    "users",
    "position",
)
_ROWS = 60
_START_US = 1_767_225_600_000_000  # 2026-01-01
_READERS = (
    ("events", "stats"),
    ("events", "load", "again.parquet"),
    ("events", "compact", "--min-files", "1"),
    ("labels", "load", "buy", "labels.csv"),
    ("status",),
    ("doctor",),
)


def _modalities(kind: str = "number") -> str:
    fields = "".join(f"      {name}: {{type: {kind}, optional: true}}\n" for name in _FIELDS)
    head = (
        "modalities:\n  pay:\n    text: '{shop}'\n    profile: true\n    fields:\n      shop: {type: text}\n"
    )
    return head + fields


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    repo = tmp_path / "feature_repo"
    repo.mkdir()
    monkeypatch.setenv("QANCHOR_REPO", str(repo))
    monkeypatch.setenv("QANCHOR_HOME", str(tmp_path / "home"))
    (repo / "modalities.yaml").write_text(_modalities())
    (repo / "scenarios.yaml").write_text("scenarios:\n  buy: {domain: marketing, query: Will they buy it}\n")
    times = pa.array(_START_US + np.arange(_ROWS) * 3_600_000_000).view(pa.timestamp("us", "UTC"))
    columns = {name: np.arange(_ROWS) + 100.0 * at for at, name in enumerate(_FIELDS)}
    users = [f"u{i % 20}" for i in range(_ROWS)]
    table = pa.table(
        {"event_id": [f"e{i}" for i in range(_ROWS)], "user_id": users, "event_time": times}
        | {"modality": ["pay"] * _ROWS, "shop": ["s"] * _ROWS}
        | columns
    )
    pq.write_table(table, "events.parquet")
    pq.write_table(table.slice(0, 10), "again.parquet")
    labels = "".join(f"u{i},2026-01-10,{i % 2}\n" for i in range(20))
    Path("labels.csv").write_text(f"user_id,as_of,label\n{labels}")
    assert run_command(["events", "load", "events.parquet"]) == 0
    yield tmp_path / "home"
    os.environ.pop("QANCHOR_HOME", None)


def _all_end_with_a_line(capsys: pytest.CaptureFixture[str], codes: set[int]) -> None:
    for command in _READERS:
        capsys.readouterr()
        code = run_command(list(command))
        errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
        assert code in codes, command
        assert len(errors) == (code > 1), command


def test_fields_may_have_the_names_that_queries_use(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    site = Site.open()
    numbers = load_event_arrays(site.event_log, site.workspace).modalities[0].numbers
    np.testing.assert_array_equal(np.sort(numbers[:, 0]), np.arange(_ROWS))
    np.testing.assert_array_equal(
        numbers - numbers[:, :1], np.tile(100.0 * np.arange(len(_FIELDS)), (_ROWS, 1))
    )
    moment = pa.array([_START_US + 90 * 86_400_000_000]).view(pa.timestamp("us", "UTC"))
    requests = pa.table({"user_id": ["u1"], "as_of": moment})
    profile = profile_table(site.event_log, site.workspace, requests).to_pylist()[0]
    assert [profile[f"prof_{name}"] for name in _FIELDS] == [41.0 + 100 * at for at in range(len(_FIELDS))]
    assert activity_table(site.event_log, site.workspace, requests)["act_pay_count_90d"].to_pylist() == [3.0]
    _all_end_with_a_line(capsys, {0})


@pytest.mark.parametrize("kept", [0, 0.5, 0.98], ids=["empty", "half", "without its end"])
def test_a_damaged_event_file(home: Path, capsys: pytest.CaptureFixture[str], kept: float) -> None:
    path = min(home.glob("events/event_date=*/*.parquet"))
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * kept)])
    _all_end_with_a_line(capsys, {0, 4})
    assert run_command(["events", "stats"]) == 4
    assert path.name in capsys.readouterr().err


def test_a_field_whose_type_was_changed_over_loaded_data(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (home.parent / "feature_repo/modalities.yaml").write_text(_modalities("text"))
    _all_end_with_a_line(capsys, {0, 2, 3, 4})


@pytest.mark.parametrize(
    "garbage", [b"garbage" * 999, b"SQLite format 3\0" + b"\1" * 9_000], ids=["garbage", "torn"]
)
def test_a_database_that_is_none(home: Path, capsys: pytest.CaptureFixture[str], garbage: bytes) -> None:
    for path in home.glob("qanchor.db*"):
        path.unlink()
    (home / "qanchor.db").write_bytes(garbage)
    _all_end_with_a_line(capsys, {1, 4})


@pytest.mark.parametrize("share", ["nan", "inf", "-1", "0", "x", ""])
def test_a_share_that_is_no_share(home: Path, capsys: pytest.CaptureFixture[str], share: str) -> None:
    Path("users.csv").write_text("user_id\nu1\nu2\n")
    assign = ("assign", "--name", "a", "--users", "users.csv", "--out", "o.csv")
    for command in (assign, ("analyse", "labels.csv")):
        code = run_command(["experiment", *command, "--arm", f"control={share}", "--arm", "treatment=0.5"])
        assert code == 2, command
    assert "is not" in capsys.readouterr().err
