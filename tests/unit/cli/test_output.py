"""Tables fit the terminal and print data as it is; JSON is JSON."""

import json
import math
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import numpy as np
import pytest

from cli.output import print_json, print_table

_ROW = {
    "scenario": "takeout",
    "positive": "1,234/12,345",
    "auc": 0.8204,
    "low": 0.8001,
    "high": 0.8399,
    "ks": 0.5123,
    "lift10": 3.21,
    "users": 1_234_567,
    "lift": "+12.3% (+10.1% to +14.5%)",
    "probe": 0.7812,
}


def _table(capsys: pytest.CaptureFixture[str], rows: list[dict[str, object]]) -> str:
    print_table("title", rows)
    return capsys.readouterr().out


@pytest.fixture(autouse=True)
def _narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")


@pytest.mark.parametrize("count", [1, 2, 30])
def test_a_wide_table_fits_80_columns_and_breaks_no_number(
    capsys: pytest.CaptureFixture[str], count: int
) -> None:
    shown = _table(capsys, [{**_ROW, "scenario": f"takeout{i}"} for i in range(count)])
    assert max(map(len, shown.splitlines())) <= 80
    for cell in (
        "1,234/12,345",
        "0.8204",
        "0.8399",
        "1,234,567",
        "+12.3% (+10.1% to +14.5%)",
        "0.7812",
        "AUC",
    ):
        assert cell in shown
    assert f"takeout{count - 1}" in shown


def test_prose_is_folded_between_words(capsys: pytest.CaptureFixture[str]) -> None:
    note = "this scenario reads vectors of an earlier model and has to be trained again " * 2
    shown = _table(
        capsys, [{"scenario": "a", "value": 0.25, "note": note}, {"scenario": "b", "value": 1, "note": ""}]
    )
    assert max(map(len, shown.splitlines())) <= 80
    assert set(note.split()) <= set(shown.split())


def test_a_name_that_is_wider_than_the_terminal_is_all_there(capsys: pytest.CaptureFixture[str]) -> None:
    name = "x" * 200
    shown = _table(capsys, [{"user_id": name, "score": 0.5}, {"user_id": "y", "score": 0.25}])
    assert max(map(len, shown.splitlines())) <= 80
    assert shown.count("x") == 200


@pytest.mark.parametrize("text", ["DE:100:1", "[/x]", "[bold]", ":smile:", "[link=a]b[/link]", "{a}"])
def test_data_is_no_markup(capsys: pytest.CaptureFixture[str], text: str) -> None:
    print_table(text, [{text: text}])
    assert capsys.readouterr().out.split() == [text, text, text]


def test_a_pipe_is_as_wide_as_its_rows(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("COLUMNS")
    assert len(_table(capsys, [_ROW]).splitlines()) == 3


def test_cells_read_as_people_write(capsys: pytest.CaptureFixture[str]) -> None:
    moment = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    row: dict[str, object] = {
        "a_b": None,
        "c": math.nan,
        "d": True,
        "e": 12345,
        "f": moment,
        "g": ["x", "y"],
        "h": 1234.56,
    }
    heading, cells = _table(capsys, [row]).splitlines()[1:]
    assert heading.split() == ["a", "b", *"cdefgh"]
    assert cells.split() == ["-", "-", "yes", "12,345", "2026-01-02", "03:04:05", "x,", "y", "1,234.6"]


def test_json_has_moments_in_utc_and_no_nan(capsys: pytest.CaptureFixture[str]) -> None:
    berlin = datetime(2026, 1, 2, 3, 0, tzinfo=timezone(timedelta(hours=1)))
    print_json(
        {
            "zoned": berlin,
            "naive": datetime(2026, 1, 2),
            "date": berlin.date(),
            "path": Path("a/b"),
            "numbers": (np.float32(0.5), np.arange(2), math.inf, np.nan),
        }
    )
    assert json.loads(capsys.readouterr().out) == {
        "zoned": "2026-01-02T02:00:00Z",
        "naive": "2026-01-02T00:00:00Z",
        "date": "2026-01-02",
        "path": "a/b",
        "numbers": [0.5, [0, 1], None, None],
    }
