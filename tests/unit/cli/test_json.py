"""--json is one JSON document with keys in snake case and moments in ISO 8601 with their zone."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.unit.cli.conftest import Run
from tests.unit.embedding.world import World

_KEY = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*|\d+")
_LOOKS_LIKE_A_MOMENT = re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d")
_MOMENT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)")


def _faults(value: Any, path: str = "$") -> Iterator[str]:
    if isinstance(value, dict):
        for key, each in value.items():
            if not _KEY.fullmatch(key):
                yield f"{path}: key {key!r}"
            yield from _faults(each, f"{path}.{key}")
    elif isinstance(value, list):
        for each in value:
            yield from _faults(each, f"{path}[]")
    elif isinstance(value, str) and _LOOKS_LIKE_A_MOMENT.match(value) and not _MOMENT.fullmatch(value):
        yield f"{path}: moment {value!r}"


def _check(run: Run, command: str, codes: tuple[int, ...] = (0,)) -> None:
    code, out, err = run(*command.split(), "--json")
    assert code in codes, (command, err)
    assert list(_faults(json.loads(out))) == [], command


def test_faults_are_seen() -> None:
    document = {"as of": 1, "AUC": [{"t": "2026-01-01 00:00:00"}], "ok_1": "2026-01-01T00:00:00Z", "3": {}}
    assert len(list(_faults(document))) == 3


def test_embeddings_indexes_audiences_and_jobs(world: World, run: Run) -> None:
    (world.home.root / "seeds.txt").write_text("ann\n")
    seeds = f"--scenario takeout --seeds {world.home.root / 'seeds.txt'}"
    for command in (
        "backfill --all",
        "backfill --scenario takeout",
        "manifests list",
        "promote --list",
        "refresh --all",
        "rollback --scenario takeout",
        "index build --all",
        "index update --all",
        "index show --all",
        f"lookalike {seeds} -k 2",
        f"audience save hungry {seeds} -k 1",
        f"audience save busy {seeds} -k 2",
        "audience list",
        "audience show hungry",
        "audience replay hungry",
        "audience overlap hungry busy",
        "audience union hungry busy --into both",
        "jobs list",
        "jobs show 1",
        "status",
        "doctor",
    ):
        _check(run, command)


def test_what_is_there_before_anything_ran(empty_home: Path, run: Run) -> None:
    for command in (
        "status",
        "doctor",
        "jobs list",
        "events stats",
        "events compact",
        "db upgrade",
        "db current",
        "audience list",
        "experiment plan --baseline 0.1 --effect 0.01 --correlation 0.5 --per-day 10",
        "experiment plan --deviation 2 --users 1000",
    ):
        _check(run, command)


def test_consume_status_without_a_broker(empty_home: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QANCHOR_KAFKA__BROKERS", "127.0.0.1:1")
    _check(run, "consume status", (4,))


def test_experiments(empty_home: Path, run: Run, tmp_path: Path) -> None:
    users = [f"u{i}" for i in range(400)]
    (tmp_path / "users.txt").write_text("\n".join(users))
    rows = [f"{user},{'control' if i % 2 else 'treatment'},{i % 5},{i % 3}" for i, user in enumerate(users)]
    (tmp_path / "rows.csv").write_text("\n".join(["user_id,arm,paid,before", *rows]))
    log = [f"{i % 2},0.5,{0.25 + i % 2 / 2}" for i in range(400)]
    (tmp_path / "log.csv").write_text("\n".join(["reward,propensity,target", *log]))
    _check(run, f"experiment assign --name a --users {tmp_path / 'users.txt'}")
    _check(
        run,
        f"experiment analyse {tmp_path / 'rows.csv'} --metric paid --covariate before --planned-users 800",
    )
    _check(run, f"experiment evaluate {tmp_path / 'log.csv'}")


def test_the_list_of_scenarios(empty_home: Path, run: Run) -> None:
    _check(run, "scenarios list")
