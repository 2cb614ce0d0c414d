"""`db` says where the schema stands and brings it up."""

import json
from pathlib import Path

import pytest

from qanchor.registry.migrate import HEAD
from tests.unit.cli.conftest import Run


def test_upgrade_makes_the_schema_and_says_what_it_did(empty_home: Path, run: Run) -> None:
    assert "no schema yet" in run("db", "current")[1]
    assert f"empty -> {HEAD}" in run("db", "upgrade")[1]
    assert "the newest" in run("db", "upgrade")[1]


def test_json_names_both_revisions_and_hides_the_password(
    empty_home: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("db", "upgrade")
    code, out, _ = run("db", "current", "--json")
    assert code == 0
    assert json.loads(out) == {
        "database": f"sqlite:///{empty_home / 'qanchor.db'}",
        "revision": HEAD,
        "newest": HEAD,
    }


@pytest.mark.parametrize(
    ("url", "code"),
    [("postgresql+psycopg://u:secret@127.0.0.1:1/x", 4), ("nonsense", 2), ("oracle://x/y", 2)],
)
def test_a_database_that_cannot_be_had_is_one_line_without_the_password(
    empty_home: Path, run: Run, monkeypatch: pytest.MonkeyPatch, url: str, code: int
) -> None:
    monkeypatch.setenv("QANCHOR_DATABASE__URL", url)
    found, out, err = run("db", "upgrade")
    assert (found, out, err.count("\n")) == (code, "", 1)
    assert "secret" not in err
