"""A backfill writes the right pairs to every store at once, or nothing that anybody sees."""

import itertools
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session

from qanchor.embedding import publish as publish_module
from qanchor.embedding.pairs import just_after
from qanchor.errors import InputError, NotReady, StateError
from qanchor.registry import manifests
from qanchor.registry.tables import EmbeddingManifest, Job
from qanchor.registry.versions import register_model, register_prompt
from tests.unit.embedding.world import SCENARIOS, Killed, World, add_events, add_labels, day, make_world
from tests.unit.registry.rows import model, prompt

NOW = 10 + 1 / 86_400  # a second after the newest event
CURRENT = [("ann", round(NOW, 6)), ("bob", round(NOW, 6)), ("cyd", round(NOW, 6))]


@pytest.fixture
def world(tmp_path: Path) -> World:
    return make_world(tmp_path)


def _states(world: World) -> list[tuple[str, str]]:
    with Session(world.engine) as session:
        rows = session.scalars(select(EmbeddingManifest).order_by(EmbeddingManifest.id))
        return [(row.scenario, row.state) for row in rows]


def test_current_users_and_the_labels_own_times_are_embedded(world: World) -> None:
    result = world.backfill()
    labelled = [("ann", 5.0), ("ann", 8.0), ("bob", 5.0), ("nil", 5.0)]
    assert world.pairs("user_emb_money") == sorted(labelled + CURRENT)
    assert world.pairs("user_emb_takeout") == CURRENT
    assert result.as_of == day(10) + timedelta(seconds=1)
    assert result.current_users == {"money": 4, "takeout": 3, "quiet": 3}
    assert result.pairs == 7


def test_an_as_of_moves_the_snapshot(world: World) -> None:
    world.backfill("takeout", as_of=day(9.5))
    assert world.pairs("user_emb_takeout") == [("ann", 9.5), ("bob", 9.5)]


def test_at_labels_takes_no_snapshot_and_leaves_the_online_store_alone(world: World) -> None:
    world.backfill("money", labels_only=True)
    assert world.pairs("user_emb_money") == [("ann", 5.0), ("ann", 8.0), ("bob", 5.0), ("nil", 5.0)]
    assert world.features.online_rows == {}
    assert manifests.active_manifest(world.engine, "money").as_of is None


def test_rows_say_what_was_read(world: World) -> None:
    world.backfill()
    rows = {(row["user_id"], row["event_timestamp"]): row for row in world.rows("user_emb_money")}
    ann, nil = rows["ann", day(5)], rows["nil", day(5)]
    assert (ann["n_events"], ann["last_event_ts"], ann["model_version"]) == (2, day(2), "m1")
    assert (nil["n_events"], nil["last_event_ts"]) == (0, None)
    assert all(row["created"] == row["event_timestamp"] for row in rows.values())
    assert all(abs(np.linalg.norm(row["emb_money"]) - 1) < 1e-5 for row in rows.values())


def test_events_at_or_after_the_cutoff_change_nothing(world: World) -> None:
    before = world.backfill("money", as_of=day(9.5)).manifests["money"].content_hash
    add_events(world.home, world.workspace, [("ann", 9.5, "bill"), ("bob", 30, "bill"), ("new", 9.5, "bill")])
    assert world.backfill("money", as_of=day(9.5)).manifests["money"].content_hash == before


def test_the_same_inputs_give_the_same_content(world: World) -> None:
    first, second = world.backfill(), world.backfill()
    assert [m.content_hash for m in first.manifests.values()] == [
        m.content_hash for m in second.manifests.values()
    ]


def test_a_history_is_encoded_once_for_all_scenarios_that_want_it(world: World) -> None:
    world.backfill()
    assert sorted(world.embedder.calls) == [(1, 4), (3, 3)]


def test_small_chunks_and_shards_give_the_same_rows(world: World) -> None:
    world.backfill()
    whole = world.rows("user_emb_money")
    world.limits = {"chunk_pairs": 1}
    world.backfill(shard_users=1, part_rows=2)
    assert world.rows("user_emb_money") == whole
    assert len(list(world.home.view("user_emb_money").glob("0*.parquet"))) == 4


def test_activity_and_profile_cover_every_label_set_and_the_snapshot(world: World) -> None:
    add_labels(world.home, "takeout", [("bob", 7)])
    world.backfill("money")
    labelled = [("ann", 5.0), ("ann", 8.0), ("bob", 5.0), ("bob", 7.0), ("nil", 5.0)]
    assert world.pairs("user_activity") == sorted(labelled + CURRENT)
    assert world.pairs("user_profile") == sorted(labelled + CURRENT)
    ann = next(row for row in world.rows("user_activity") if row["user_id"] == "ann")
    assert (ann["act_bill_count_7d"], ann["act_bill_sum_90d"], ann["act_card_recency_days"]) == (1, 5, 3)


def test_activity_of_a_scenario_that_stays_untouched_is_kept(world: World) -> None:
    world.backfill("takeout", as_of=day(9.5))
    world.backfill("money", as_of=day(12))
    assert ("bob", 9.5) in world.pairs("user_activity")


def test_the_online_store_gets_the_newest_row_of_each_user(world: World) -> None:
    world.backfill()
    online = world.features.online_rows
    assert set(online) == {f"user_emb_{name}" for name in SCENARIOS} | {"user_activity", "user_profile"}
    assert online["user_emb_takeout"] == dict.fromkeys(["ann", "bob", "cyd"], day(10) + timedelta(seconds=1))


def test_no_online_leaves_the_online_store_alone(world: World) -> None:
    world.backfill(online=False)
    assert world.features.online_rows == {}


def test_earlier_parts_go_and_parts_of_others_stay(world: World) -> None:
    world.backfill("money")
    schema = pa.parquet.read_schema(world.home.view("user_activity") / "empty.parquet")
    world.features.write_part("user_activity", schema.empty_table(), "consumer-7")
    world.backfill("money")
    names = {path.stem for path in world.home.view("user_activity").glob("*.parquet")}
    assert names == {"empty", "consumer-7", manifests.part_name(2, 0)}
    assert _states(world) == [("money", "retired"), ("money", "active")]


def test_feast_is_applied_when_the_embedding_space_changes_only(world: World) -> None:
    world.backfill("money")
    world.backfill("money")
    assert world.features.applied == 1
    register_model(world.engine, model("m2"))
    world.backfill("money")
    assert world.features.applied == 2
    assert world.features.fingerprint("money") == manifests.active_manifest(world.engine, "money").fingerprint


def test_a_prompt_moves_its_scenario_to_another_space(world: World) -> None:
    first = world.backfill("money", "takeout").manifests
    register_prompt(world.engine, prompt("p1"))
    second = world.backfill("money", "takeout").manifests
    assert second["money"].prompt_version == "p1"
    assert second["money"].fingerprint != first["money"].fingerprint
    assert second["takeout"].fingerprint == first["takeout"].fingerprint


def test_a_prompt_of_an_earlier_model_is_left_out_with_a_warning(world: World) -> None:
    register_prompt(world.engine, prompt("p1"))
    register_model(world.engine, model("m2"))
    result = world.backfill("money")
    assert result.manifests["money"].prompt_version is None
    assert any("tune --scenario money" in warning for warning in result.warnings)


def test_the_online_store_never_mixes_two_spaces(world: World) -> None:
    world.backfill("takeout", as_of=day(20))
    register_model(world.engine, model("m2"))
    with pytest.raises(InputError, match="later --as-of"):
        world.backfill("takeout", as_of=day(12))
    result = world.backfill("takeout", as_of=day(12), online=False)
    assert any("online store keeps" in warning for warning in result.warnings)


def test_an_online_store_that_takes_too_few_rows_is_not_trusted(world: World) -> None:
    world.features.takes_all = False
    with pytest.raises(StateError, match="took 0 of"):
        world.backfill()
    assert manifests.active_manifests(world.engine, SCENARIOS) == {}


@pytest.mark.parametrize(
    ("spoil", "error", "message"),
    [
        (lambda world: world.home.events.rename(world.home.root / "gone"), NotReady, "event log is empty"),
        (lambda world: (world.home.labels / "money.parquet").unlink(), NotReady, "has no labels"),
    ],
    ids=["no events", "no labels"],
)
def test_a_step_that_has_to_come_first_is_named(
    world: World, spoil: Callable[[World], Any], error: type[Exception], message: str
) -> None:
    spoil(world)
    with pytest.raises(error, match=message):
        world.backfill("money", labels_only=True)


@pytest.mark.parametrize(("as_of", "message"), [(day(-400), "no user"), (day(400_000), "future")])
def test_an_absurd_as_of_is_refused(world: World, as_of: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        world.backfill("money", as_of=as_of)


def test_two_backfills_at_once_are_refused(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def second(*_: object) -> None:
        with pytest.raises(NotReady, match="another backfill"):
            world.backfill("takeout")
        raise Killed

    monkeypatch.setattr(world, "load", second)
    with pytest.raises(Killed):
        world.backfill("money")


def test_the_job_is_recorded(world: World) -> None:
    world.backfill("money")
    with Session(world.engine) as session:
        job = session.scalars(select(Job)).one()
    assert (job.kind, job.state, job.parameters["scenarios"]) == ("backfill", "done", ["money"])


# What is called for the n-th time when the process goes, and whether the model changed before.
_POINTS = [
    ("embed", 2, False),
    ("embed", 1, True),
    ("set_fingerprint", 2, True),
    ("apply", 1, True),
    ("begin_manifest", 2, False),
    ("note_manifest", 1, True),
    ("note_manifest", 3, False),
    ("write_part", 1, False),
    ("write_part", 2, True),
    ("materialize", 1, False),
    ("materialize", 1, True),
    ("activate_manifests", 1, False),
    ("activate_manifests", 1, True),
    ("prune", 1, True),
    ("remove_parts", 1, True),
    ("remove_parts", 2, False),
]


def _kill_at(world: World, monkeypatch: pytest.MonkeyPatch, name: str, call: int) -> None:
    owners: list[Any] = [world.embedder, world.features, publish_module]
    owner = next(owner for owner in owners if hasattr(owner, name))
    original, calls = getattr(owner, name), itertools.count(1)

    def counted(*arguments: Any, **named: Any) -> Any:
        if next(calls) == call:
            raise Killed
        return original(*arguments, **named)

    monkeypatch.setattr(owner, name, counted)


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> dict[bool, World]:
    """Worlds in which nothing was ever killed, by whether the model changed."""
    worlds = {changed: make_world(tmp_path_factory.mktemp("clean")) for changed in (False, True)}
    register_model(worlds[True].engine, model("m2"))
    for world in worlds.values():
        world.backfill()
    return worlds


@pytest.mark.parametrize(("name", "call", "changed"), _POINTS)
def test_a_killed_backfill_is_completed_by_the_next(  # fixtures
    world: World,
    clean: dict[bool, World],
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    call: int,
    changed: bool,
) -> None:
    world.backfill(as_of=day(9.5))
    if changed:
        register_model(world.engine, model("m2"))
    with monkeypatch.context() as patch:
        _kill_at(world, patch, name, call)
        with pytest.raises(Killed):
            world.backfill()
    _nobody_reads_two_spaces(world)
    result = world.backfill()
    for view in ("user_activity", "user_profile", *(f"user_emb_{name}" for name in SCENARIOS)):
        assert world.rows(view) == clean[changed].rows(view)
    expected = manifests.active_manifests(clean[changed].engine, SCENARIOS)
    assert {n: m.content_hash for n, m in result.manifests.items()} == {
        n: m.content_hash for n, m in expected.items()
    }
    states = [state for _, state in _states(world)]
    assert states.count("active") == len(SCENARIOS)
    assert "building" not in states
    assert list((world.home.cache / "backfill").glob("*")) == []


def _nobody_reads_two_spaces(world: World) -> None:
    """A scenario that has an active manifest has vectors of one model in its view."""
    for name in manifests.active_manifests(world.engine, SCENARIOS):
        assert len({row["model_version"] for row in world.rows(f"user_emb_{name}")}) == 1


def test_the_default_cutoff_lies_after_an_event_on_the_full_second() -> None:
    assert just_after(day(1)) == day(1) + timedelta(seconds=1)
    assert just_after(day(1) + timedelta(microseconds=999_999)) == day(1) + timedelta(seconds=1)
