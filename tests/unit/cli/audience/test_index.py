"""`index build`, `update` and `show`: what is served, what was measured, and what to do when nothing is."""

import json
from pathlib import Path

import pytest

from tests.unit.cli.conftest import Run
from tests.unit.embedding.world import World


def test_show_says_what_was_built_and_measured(world: World, run: Run) -> None:
    run("backfill", "--all")
    built = json.loads(run("index", "build", "--scenario", "money", "--json")[1])["indexes"][0]
    shown = json.loads(run("index", "show", "--all", "--json")[1])["indexes"]
    assert [facts["scenario"] for facts in shown] == ["money"]
    facts = shown[0]
    assert (facts["version"], facts["bytes"], facts["users"]) == (built["version"], built["bytes"], 4)
    assert (facts["kind"], facts["recall"], facts["recall_queries"]) == ("flat", 1.0, 0)
    assert facts["load_seconds"] > 0
    code, out, _ = run("index", "show", "--scenario", "money")
    assert code == 0
    assert "Index of money" in out
    assert "none: exact" in out


def test_update_after_a_backfill_brings_the_index_up_to_it(world: World, run: Run) -> None:
    run("backfill", "--all")
    run("index", "build", "--all")
    run("backfill", "--all")
    assert json.loads(run("index", "show", "--scenario", "money", "--json")[1])["indexes"][0]["is_behind"]
    code, out, _ = run("index", "update", "--all")
    assert code == 0
    assert "The search is exact." in out
    assert not json.loads(run("index", "show", "--scenario", "money", "--json")[1])["indexes"][0]["is_behind"]


@pytest.mark.parametrize(
    ("command", "remedy"), [("build", "backfill"), ("update", "backfill"), ("show", "index build")]
)
def test_commands_that_come_too_early_name_the_one_before(
    world: World, run: Run, command: str, remedy: str
) -> None:
    for names in (("--all",), ("--scenario", "money")):
        code, out, err = run("index", command, *names)
        assert (code, out, err.count("\n")) == (3, "", 1)
        assert remedy in err


def test_a_damaged_index_is_refused_in_one_line(world: World, run: Run) -> None:
    run("backfill", "--scenario", "money")
    run("index", "build", "--scenario", "money")
    path = next(Path(world.home.indexes).rglob("index.faiss"))
    path.write_bytes(path.read_bytes()[:-1])
    code, out, err = run("index", "show", "--scenario", "money")
    assert (code, out, err.count("\n")) == (3, "", 1)
    assert "a file was cut off" in err
    assert "index build" in err


def test_a_setting_that_does_not_hold_is_named(
    world: World, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("backfill", "--scenario", "money")
    monkeypatch.setenv("QANCHOR_INDEX__RECALL", "1.5")
    code, _, err = run("index", "build", "--scenario", "money")
    assert code == 2
    assert "QANCHOR_INDEX__RECALL" in err


def test_several_indexes_are_a_table_and_verbose_adds_every_figure(world: World, run: Run) -> None:
    run("backfill", "--all")
    run("index", "build", "--all")
    _, out, _ = run("index", "show", "--all")
    assert len(out.splitlines()) == 3 + len(world.workspace.scenarios)
    assert "build seconds" not in out
    _, out, _ = run("index", "show", "--all", "--verbose")
    assert out.count("build seconds") == len(world.workspace.scenarios)
