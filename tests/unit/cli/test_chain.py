"""backfill, index, lookalike and status, one after the other as a user types them."""

import json
from pathlib import Path

import pytest

from qanchor.registry.versions import register_model
from tests.unit.cli.conftest import Run, run_json
from tests.unit.embedding.world import World
from tests.unit.registry.rows import model


def _seeds(world: World, *users: str) -> str:
    path = world.home.root / "seeds.txt"
    path.write_text("\n".join(users))
    return str(path)


def test_a_backfill_says_what_it_wrote(world: World, run: Run) -> None:
    content = run_json(run, "backfill", "--all")
    assert [row["vectors"] for row in content["scenarios"]] == [7, 3, 3]
    assert content["histories"] == 7
    code, out, _ = run("backfill", "--scenario", "takeout", "--as-of", "2026-01-10T12:00")
    assert code == 0
    assert "2 histories x 1 scenarios" in out
    assert "now is 2026-01-10 12:00:00 UTC" in out


def test_a_warning_goes_to_stderr(world: World, run: Run) -> None:
    run("backfill", "--all")
    register_model(world.engine, model("m2"))
    _, out, err = run("backfill", "--all", "--no-online", "--json")
    assert "warning: the online store keeps" in err
    assert len(json.loads(out)["warnings"]) == 3


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "no scenario is given"),
        (("--all", "--scenario", "money"), "both"),
        (("--scenario", "nope"), "'nope' does not exist"),
        (("--all", "--as-of", "yesterday"), "no date"),
        (("--all", "--as-of", "2026-01-05", "--at-labels"), "--at-labels"),
    ],
)
def test_options_that_do_not_hold_are_refused_in_one_line(
    world: World, run: Run, arguments: tuple[str, ...], said: str
) -> None:
    code, out, err = run("backfill", *arguments)
    assert (code, out) == (2, "")
    assert said in err
    assert err.count("\n") == 1


def test_index_all_takes_the_scenarios_that_have_vectors(world: World, run: Run) -> None:
    assert run("index", "build", "--all")[0] == 3
    run("backfill", "--scenario", "money")
    content = run_json(run, "index", "build", "--all")
    assert [(row["scenario"], row["users"]) for row in content["indexes"]] == [("money", 4)]


def test_lookalikes_are_ranked_and_odd_seeds_reported(world: World, run: Run, tmp_path: Path) -> None:
    run("backfill", "--all")
    run("index", "build", "--all")
    seeds = _seeds(world, "ann", "ghost", "ann")
    content = run_json(run, "lookalike", "--scenario", "takeout", "--seeds", seeds)
    assert {row["user_id"] for row in content["users"]} == {"bob", "cyd"}
    assert (content["unknown_seeds"], content["duplicate_seeds"]) == (["ghost"], 1)
    out = tmp_path / "audience.csv"
    code, shown, err = run("lookalike", "--scenario", "takeout", "--seeds", seeds, "--out", str(out))
    assert code == 0
    assert "like 1 seed among 2 users, method centroid" in shown
    for note in ("ghost", "1 repeated seed", "wrote 2 rows"):
        assert note in err
    assert len(out.read_text().splitlines()) == 3


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("-k", "5"), "5 users are requested and only 2 can be found"),
        (("--where", "nope > 1"), "no feature 'nope'. Features: act_bill_count_1d"),
        (("--where", "act_bill_count_90d > 99"), "nobody of 2 users passes the filter"),
        (("--where", "(SELECT 1) = 1"), "may not hold a subquery"),
        (("--method", "classifier"), "too few for a classifier"),
        (("--out", "audience.txt"), "ends in none of"),
        (("--exclude", "absent.txt"), "exclusion file absent.txt cannot be read"),
    ],
)
def test_a_lookalike_that_cannot_be_made_is_refused_in_one_line(
    world: World, run: Run, options: tuple[str, ...], said: str
) -> None:
    run("backfill", "--all")
    run("index", "build", "--all")
    code, out, err = run("lookalike", "--scenario", "takeout", "--seeds", _seeds(world, "ann"), *options)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert said in err


def test_a_filter_on_features_chooses_who_is_found(world: World, run: Run) -> None:
    run("backfill", "--all")
    run("index", "build", "--all")
    where = ("--where", "act_bill_recency_days < 5")
    content = run_json(run, "lookalike", "--scenario", "takeout", "--seeds", _seeds(world, "ann"), *where)
    assert [row["user_id"] for row in content["users"]] == ["cyd"]
    assert content["left_out"]["filtered"] == 1


def test_an_index_that_is_behind_is_named(world: World, run: Run) -> None:
    run("backfill", "--all")
    run("index", "build", "--all")
    run("backfill", "--all")
    err = run("lookalike", "--scenario", "money", "--seeds", _seeds(world, "ann"))[2]
    assert "index build --scenario money" in err


def test_lookalike_before_an_index_names_the_command(world: World, run: Run) -> None:
    code, _, err = run("lookalike", "--scenario", "money", "--seeds", _seeds(world, "ann"))
    assert (code, "index build --scenario money" in err) == (3, True)


def test_status_follows_the_chain(world: World, run: Run) -> None:
    assert run_json(run, "status")["model"]["version"] == "m1"
    assert "next: qanchor-cli events load" in run("status")[1]
    run("backfill", "--all")
    run("index", "build", "--scenario", "money")
    money = run_json(run, "status")["scenarios"][0]
    assert (money["vectors"], money["indexed"], money["index_is_behind"]) == (7, 4, False)
    run("backfill", "--scenario", "money")
    assert "old: the index is of earlier vectors: money" in run("status")[1]


def test_status_of_an_empty_home_says_where_to_begin(empty_home: Path, run: Run) -> None:
    code, out, _ = run("status")
    assert code == 0
    assert "events  none" in out
    assert "next: qanchor-cli events load events.parquet" in out


def test_status_names_a_job_that_broke_off(world: World, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    run("backfill", "--all", "--as-of", "2001-01-01")
    assert "job: backfill failed" in run("status")[1]
    run("backfill", "--all")
    assert "failed" not in run("status")[1]
