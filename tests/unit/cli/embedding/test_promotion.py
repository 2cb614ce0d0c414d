"""promote, rollback, verify and jobs, as a platform engineer types them."""

import json
from typing import Any

import pytest

from qanchor.registry.manifests import active_manifest
from qanchor.registry.versions import active_index
from tests.unit.cli.conftest import Run
from tests.unit.embedding.world import World


def _json(run: Run, *arguments: str) -> Any:
    code, out, err = run(*arguments, "--json")
    assert code == 0, err
    return json.loads(out)


def test_vectors_wait_until_they_are_promoted_and_can_be_taken_back(world: World, run: Run) -> None:
    run("backfill", "--scenario", "takeout", "--as-of", "2026-01-10T12:00")
    first = active_manifest(world.engine, "takeout").id
    waiting = _json(run, "backfill", "--scenario", "takeout", "--no-promote")
    assert waiting["scenarios"][0]["state"] == "candidate"
    assert [row["state"] for row in _json(run, "promote", "--list")] == ["active", "candidate"]
    assert _json(run, "promote", "--scenario", "takeout")[0]["state"] == "active"
    assert _json(run, "rollback", "--scenario", "takeout")[0]["manifest"] == first
    assert active_manifest(world.engine, "takeout").id == first
    code, out, _ = run("rollback", "--scenario", "takeout")
    assert code == 0
    assert "qanchor-cli index build --scenario takeout" in out


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("promote", "--scenario", "takeout"), 3, "no embeddings wait"),
        (("promote", "--scenario", "nope"), 2, "'nope' does not exist"),
        (("rollback", "--scenario", "takeout"), 3, "no earlier embeddings"),
        (("verify", "--scenario", "takeout"), 3, "no embeddings of 'takeout' yet"),
        (("jobs", "show", "7"), 2, "there is no job 7"),
        (("jobs", "cancel", "7"), 2, "there is no job 7"),
    ],
)
def test_what_cannot_be_done_is_one_line_with_a_remedy(
    world: World, run: Run, arguments: tuple[str, ...], code: int, said: str
) -> None:
    found, _, err = run(*arguments)
    assert (found, said in err, len(err.splitlines())) == (code, True, 1)


def test_a_gate_that_fails_is_named_with_its_figure(
    world: World, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = world.embedder.embed

    def embed(arrays: Any, rows: Any, cutoffs: Any, questions: Any) -> Any:
        if any(row >= 0 and arrays.users[row] == "bob" for row in rows):
            raise ValueError("unreadable")
        return original(arrays, rows, cutoffs, questions)

    monkeypatch.setattr(world.embedder, "embed", embed)
    code, out, err = run("backfill", "--scenario", "takeout")
    assert code == 3
    assert "candidate" in out
    assert "warning: set aside bob: ValueError: unreadable" in err
    assert "takeout: coverage is 0.6667, must be at least 0.99" in err.splitlines()[-1]
    code, _, err = run("promote", "--scenario", "takeout")
    assert (code, "add --force" in err) == (3, True)
    assert _json(run, "promote", "--scenario", "takeout", "--force")[0]["state"] == "active"


def test_jobs_are_listed_and_shown(world: World, run: Run) -> None:
    assert "no job has run yet" in run("jobs", "list")[1]
    run("backfill", "--scenario", "takeout", "--shard-users", "2")
    listed = _json(run, "jobs", "list")
    assert [(job["kind"], job["state"], job["shards"]) for job in listed] == [("backfill", "done", 2)]
    shown = run("jobs", "show", "1")[1]
    assert "shards" in shown
    assert "2 of 2 done" in shown
    code, _, err = run("jobs", "cancel", "1")
    assert (code, "has ended already: done" in err) == (3, True)


def test_a_job_says_what_it_has_made(world: World, run: Run) -> None:
    run("backfill", "--scenario", "takeout", "--scenario", "money")
    assert run("index", "build", "--scenario", "takeout")[0] == 0
    index, backfill = _json(run, "jobs", "list")
    assert (index["kind"], index["state"], index["parameters"]) == (
        "index build", "done", {"scenarios": ["takeout"]},
    )  # fmt: skip
    assert index["made"] == [f"index {active_index(world.engine, 'takeout').version} of takeout"]
    assert backfill["made"] == ["manifest 1 of takeout", "manifest 2 of money"]
    assert "manifest 1 of takeout and 1 more" in run("jobs", "list")[1]
    assert "manifest 2 of money" in run("jobs", "show", "1")[1]


def test_the_old_name_of_the_list_works_and_names_the_new_one(world: World, run: Run) -> None:
    run("backfill", "--all")
    code, new, err = run("manifests", "list", "--json")
    assert (code, err) == (0, "")
    code, old, err = run("promote", "--list", "--json")
    assert (code, old) == (0, new)
    assert "`qanchor-cli manifests list`" in err
