"""What is not promoted serves nobody; what was replaced can come back; a poisoned user stops nobody."""

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session

from qanchor.embedding import gates as gates_module
from qanchor.embedding.gates import GateResult
from qanchor.embedding.publish import promote, rollback_target
from qanchor.errors import NotReady, StateError
from qanchor.progress import Silent
from qanchor.registry.jobs import cancel_job, list_jobs
from qanchor.registry.manifests import active_manifest, active_manifests, waiting_manifests
from qanchor.registry.tables import EmbeddingManifest
from qanchor.registry.versions import register_model
from qanchor.storage.generations import generation_checksum
from tests.unit.embedding.world import Killed, World, add_events, day, make_world
from tests.unit.registry.rows import model


@pytest.fixture
def world(tmp_path: Path) -> World:
    return make_world(tmp_path)


def _states(world: World) -> list[str]:
    with Session(world.engine) as session:
        return [m.state for m in session.scalars(select(EmbeddingManifest).order_by(EmbeddingManifest.id))]


def test_without_promotion_the_earlier_vectors_go_on_serving(world: World) -> None:
    first = world.backfill("takeout", as_of=day(9.5)).manifests["takeout"]
    world.backfill("takeout", promote=False)
    assert active_manifest(world.engine, "takeout").id == first.id
    assert world.pairs("user_emb_takeout") == [("ann", 9.5), ("bob", 9.5)]
    waiting = waiting_manifests(world.engine, ["takeout"])
    promote(world.site, waiting, Silent())
    assert _states(world) == ["retired", "active"]
    assert len(world.pairs("user_emb_takeout")) == 3


def test_a_failed_gate_keeps_one_scenario_back_and_lets_the_others_go(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = GateResult("coverage", 0.2, 0.99, passed=False, at_least=True)
    judge = gates_module.judge
    monkeypatch.setattr(
        "qanchor.embedding.backfill.judge",
        lambda site, manifest, *rest: [bad] if manifest.scenario == "money" else judge(site, manifest, *rest),
    )
    result = world.backfill()
    assert result.blocked == {"money": [bad]}
    assert set(active_manifests(world.engine, list(result.manifests))) == {"takeout", "quiet"}
    assert world.rows("user_emb_money") == []
    forced = world.backfill("money", force=True)
    assert active_manifest(world.engine, "money").id == forced.manifests["money"].id


def test_a_rollback_brings_the_same_bytes_back(world: World) -> None:
    world.backfill("money", as_of=day(9.5))
    before = world.rows("user_emb_money")
    register_model(world.engine, model("m2"))
    world.backfill("money")
    target = rollback_target(world.site, "money")
    promote(world.site, {"money": target}, Silent())
    assert world.rows("user_emb_money") == before
    assert world.features.fingerprint("money") == target.fingerprint
    assert world.features.cleared == ["user_emb_money"]  # of an earlier moment than what was online
    assert set(world.features.online_rows["user_emb_money"].values()) == {day(9.5)} | {day(5)}
    promote(world.site, {"money": rollback_target(world.site, "money")}, Silent())
    assert {row["model_version"] for row in world.rows("user_emb_money")} == {"m2"}


def test_two_generations_are_kept_and_older_files_go(world: World) -> None:
    for moment in (9.5, 10, 11, 12):
        world.backfill("takeout", as_of=day(moment))
    assert _states(world) == ["removed", "removed", "retired", "active"]
    folders = sorted(path.name for path in (world.home.root / "embeddings/user_emb_takeout").iterdir())
    assert folders == ["00000003", "00000004"]


def test_a_rollback_without_earlier_embeddings_is_refused(world: World) -> None:
    world.backfill("takeout")
    with pytest.raises(NotReady, match="no earlier embeddings"):
        rollback_target(world.site, "takeout")


def test_the_checksum_is_that_of_the_files(world: World) -> None:
    for name, manifest in world.backfill(shard_users=2).manifests.items():
        assert generation_checksum(world.home.root / manifest.path, name) == manifest.content_hash


def _poison(world: World, monkeypatch: pytest.MonkeyPatch, *users: str) -> None:
    original = world.embedder.embed

    def embed(arrays: Any, rows: Any, cutoffs: Any, queries: Any) -> Any:
        bad = [row for row in rows if row >= 0 and arrays.users[row] in users]
        if bad:
            raise ValueError(f"cannot read\nrow {len(bad)}")
        return original(arrays, rows, cutoffs, queries)

    monkeypatch.setattr(world.embedder, "embed", embed)


def test_a_user_who_breaks_the_encoder_is_set_aside_with_the_reason(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    _poison(world, monkeypatch, "bob")
    result = world.backfill("takeout", force=True)
    assert result.set_aside == {"bob": "ValueError: cannot read row 1"}
    assert [user for user, _ in world.pairs("user_emb_takeout")] == ["ann", "cyd"]
    assert list_jobs(world.engine, 1)[0].set_aside == result.set_aside
    assert [gate.gate for gate in result.blocked["takeout"]] == ["coverage"]


def test_a_vector_with_nan_is_set_aside(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    original = world.embedder.embed

    def embed(arrays: Any, rows: Any, cutoffs: Any, queries: Any) -> Any:
        vectors = original(arrays, rows, cutoffs, queries)
        vectors[:, [row >= 0 and arrays.users[row] == "ann" for row in rows], 3] = np.nan
        return vectors

    monkeypatch.setattr(world.embedder, "embed", embed)
    result = world.backfill("takeout", force=True)
    assert result.set_aside == {"ann": "the vector is not finite"}
    assert [user for user, _ in world.pairs("user_emb_takeout")] == ["bob", "cyd"]


def test_an_encoder_that_fails_for_everybody_fails_the_job(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.limits = {"max_set_aside": 2}
    _poison(world, monkeypatch, "ann", "bob", "cyd")
    with pytest.raises(StateError, match="no user's fault"):
        world.backfill("takeout")
    assert list_jobs(world.engine, 1)[0].state == "failed"


def test_finished_shards_are_not_done_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    original, seen = world.embedder.embed, []

    def embed(arrays: Any, rows: Any, cutoffs: Any, queries: Any) -> Any:
        seen.append([str(arrays.users[row]) for row in rows])
        if len(seen) == 2:
            raise Killed
        return original(arrays, rows, cutoffs, queries)

    monkeypatch.setattr(world.embedder, "embed", embed)
    with pytest.raises(Killed):
        world.backfill("takeout", shard_users=1)
    add_events(world.home, world.workspace, [("bob", 9.9, "bill")])  # too late for this job's plan
    result = world.backfill("takeout", shard_users=1)
    assert seen == [["ann"], ["bob"], ["bob"], ["cyd"]]
    assert (result.embedded, result.pairs) == (2, 3)
    events = {row["user_id"]: row["n_events"] for row in world.rows("user_emb_takeout")}
    assert events == {"ann": 3, "bob": 1, "cyd": 1}
    assert [job.state for job in list_jobs(world.engine, 5)] == ["done"]


def test_what_is_lost_from_the_cache_is_done_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    original, calls = world.embedder.embed, []

    def embed(*arguments: Any) -> Any:
        calls.append(1)
        if len(calls) == 3:
            for folder in (world.home.cache / "backfill").glob("*/00000-*"):
                for path in folder.iterdir():
                    path.unlink()
                folder.rmdir()
            raise Killed
        return original(*arguments)

    monkeypatch.setattr(world.embedder, "embed", embed)
    with pytest.raises(Killed):
        world.backfill("takeout", shard_users=1)
    assert world.backfill("takeout", shard_users=1).embedded == 2
    assert len(world.pairs("user_emb_takeout")) == 3


def test_two_workers_share_one_job(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    other = World(world.workspace, world.home, world.engine, world.features, world.embedder)
    both, results = threading.Barrier(2, timeout=30), []
    original = world.embedder.embed

    def embed(*arguments: Any) -> Any:
        if not both.broken and both.n_waiting < 2 and len(world.embedder.calls) < 2:
            both.wait()
        return original(*arguments)

    monkeypatch.setattr(world.embedder, "embed", embed)
    threads = [
        threading.Thread(target=lambda w=one: results.append(w.backfill("takeout", shard_users=1)))
        for one in (world, other)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len({result.job_id for result in results}) == 1
    assert sum(result.embedded for result in results) == 3
    assert all(0 < result.embedded < 3 for result in results)
    assert {result.manifests["takeout"].state for result in results} == {"active"}
    assert len(world.pairs("user_emb_takeout")) == 3


def test_a_cancelled_backfill_ends_and_leaves_nothing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    original = world.embedder.embed

    def embed(*arguments: Any) -> Any:
        cancel_job(world.engine, list_jobs(world.engine, 1)[0].id)
        return original(*arguments)

    monkeypatch.setattr(world.embedder, "embed", embed)
    with pytest.raises(NotReady, match="cancelled"):
        world.backfill("takeout")
    assert active_manifests(world.engine, ["takeout"]) == {}
    monkeypatch.setattr(world.embedder, "embed", original)
    assert world.backfill("takeout").manifests["takeout"].state == "active"
