"""Faulty labels, features and files on the command line: one line says what is wrong, nothing changes."""

import hashlib
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cli.app import run_command
from qanchor.registry.versions import active_head
from qanchor.site import Site
from tests.unit.heads.fakes import NOON, SCENARIO, World, add_manifest, small_world

Rows = list[tuple[str, datetime, int, int]]


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> World:
    """A home with labels and a champion."""
    (tmp_path / "modalities.yaml").write_text("modalities: {bill: {text: paid, fields: {}}}\n")
    (tmp_path / "scenarios.yaml").write_text(
        "scenarios: {risk: {domain: risk, query: Will it happen at all}}\n"
    )
    monkeypatch.setenv("QANCHOR_REPO", str(tmp_path))
    monkeypatch.setenv("QANCHOR_HOME", str(tmp_path / "home"))
    made = small_world(tmp_path)
    add_manifest(made)
    # The tables are there without alembic's own.
    monkeypatch.setattr("qanchor.registry.migrate.prepare", lambda *_: None)
    monkeypatch.setattr(Site, "open", lambda: made.site)
    assert run_command(["head", "train", "--scenario", SCENARIO]) == 0
    capsys.readouterr()
    return made


def state(world: World) -> tuple[str, list[str], str]:
    """The champion, every head there is, and the labels in use."""
    home = world.site.home
    labels = hashlib.sha256((home.labels / f"{SCENARIO}.parquet").read_bytes()).hexdigest()
    heads = sorted(path.name for path in (home.heads / SCENARIO).iterdir())
    return active_head(world.site.engine, SCENARIO).version, heads, labels


def refused(world: World, capsys: pytest.CaptureFixture[str], arguments: list[str], code: int) -> str:
    """The one line of a command that has to fail and change nothing."""
    before = state(world)
    assert run_command(arguments) == code
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert state(world) == before
    return line


def written(rows: Rows, path: Path) -> Path:
    columns = [list(column) for column in zip(*rows, strict=True)]
    pq.write_table(pa.table(columns, ["user_id", "as_of", "label", "fold"]), path)
    return path


def good_rows() -> Rows:
    return [(f"u{place:04d}", NOON, place % 2, place // 2 % 4) for place in range(40)]


def one_class(rows: Rows) -> Rows:
    return [(user, when, 1, fold) for user, when, _, fold in rows]


def one_class_in_a_fold(rows: Rows) -> Rows:
    return [(user, when, 0 if fold == 2 else label, fold) for user, when, label, fold in rows]


def a_label_twice(rows: Rows) -> Rows:
    return [*rows, rows[3]]


def an_empty_fold(rows: Rows) -> Rows:
    return [(user, when, label, 9 if fold == 2 else fold) for user, when, label, fold in rows]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (one_class, "all 40 labels of risk are 1"),
        (one_class_in_a_fold, "has only label 0, by column fold"),
        (a_label_twice, "row 41, columns user_id and as_of: 'u0003' has two at 2026-03-01"),
        (an_empty_fold, "column fold of risk: fold 2 is empty"),
    ],
)
def test_faulty_labels_are_refused(
    world: World,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    spoil: Callable[[Rows], Rows],
    message: str,
) -> None:
    path = written(spoil(good_rows()), tmp_path / "faulty.parquet")
    assert message in refused(world, capsys, ["labels", "load", SCENARIO, str(path)], 2)


def test_labels_before_every_event_are_refused(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    users = [f"u{place:04d}" for place in range(40)]
    events = {"user_id": users, "event_time": ["2026-03-02T00:00:00Z"] * 40, "modality": ["bill"] * 40}
    table = pa.table(events | {"amount": pa.array([1.0] * 40)})
    pq.write_table(table, tmp_path / "events.parquet")
    assert run_command(["events", "load", str(tmp_path / "events.parquet")]) == 0
    path = written(good_rows(), tmp_path / "early.parquet")
    capsys.readouterr()
    line = refused(world, capsys, ["labels", "load", SCENARIO, str(path)], 2)
    assert "every label of early.parquet is before all events of its user" in line


def test_features_that_never_vary_are_refused(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    for name, values in world.source.columns.items():
        world.source.columns[name] = [values[0]] * len(values)
    line = refused(world, capsys, ["head", "train", "--scenario", SCENARIO], 2)
    assert "features varies over" in line


def test_a_vector_with_nan_is_refused_in_training_and_in_scoring(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    world.source.columns["emb_risk"][7] = [float("nan")] * 8
    line = refused(world, capsys, ["head", "train", "--scenario", SCENARIO], 2)
    assert "row 8, column emb_risk: the vector of user 'u0007' holds NaN" in line
    (tmp_path / "users.txt").write_text("u0001\nu0007\n")
    out = tmp_path / "scores.csv"
    arguments = ["head", "score", "--scenario", SCENARIO, "--users", str(tmp_path / "users.txt")]
    line = refused(world, capsys, [*arguments, "--out", str(out)], 2)
    assert "row 2, column emb_risk: the vector of user 'u0007' holds NaN" in line
    assert not out.exists()


def test_a_category_that_training_did_not_have_is_refused_in_scoring(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    world.source.columns["prof_city"][4] = "atlantis"
    (tmp_path / "users.txt").write_text("u0004\n")
    arguments = ["head", "score", "--scenario", SCENARIO, "--users", str(tmp_path / "users.txt")]
    line = refused(world, capsys, arguments, 2)
    assert "column prof_city holds 1 value(s) that training did not have, in 1 row(s): 'atlantis'" in line
    assert run_command([*arguments, "--unseen", "missing"]) == 0


@pytest.mark.parametrize("name", ["card.json", "booster_0.txt", "frame.parquet", "scores.parquet"])
def test_a_head_that_was_edited_by_hand_is_refused(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    version = active_head(world.site.engine, SCENARIO).version
    path = world.site.home.heads / SCENARIO / version / name
    path.write_bytes(path.read_bytes().replace(b"0", b"1", 1) + b"\n")
    (tmp_path / "users.txt").write_text("u0004\n")
    score = ["score", "--users", str(tmp_path / "users.txt")]
    # Frame and scores play no part in scoring; whoever reads them refuses them.
    command = score if name in ("card.json", "booster_0.txt") else ["refit"]
    line = refused(world, capsys, ["head", *command, "--scenario", SCENARIO], 3)
    assert f"{name} was changed since it was written" in line
    assert f"qanchor-cli head train --scenario {SCENARIO}" in line
