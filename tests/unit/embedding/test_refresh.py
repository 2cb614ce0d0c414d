"""A refresh embeds who has changed, as a backfill would, and leaves the others alone."""

import threading
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from qanchor.embedding import refresh as refresh_module
from qanchor.embedding.publish import promote, rollback_target
from qanchor.embedding.refresh import RefreshRequest, ScenarioRefresh, refresh, staleness_seconds
from qanchor.errors import InputError, NotReady
from qanchor.progress import Silent
from qanchor.registry.jobs import list_jobs
from qanchor.registry.manifests import active_manifest
from qanchor.registry.shards import ShardedJob
from qanchor.registry.versions import register_model
from qanchor.storage.generations import generation_checksum
from tests.unit.embedding.world import SCENARIOS, Killed, World, add_events, day, make_world
from tests.unit.registry.rows import model

_SECOND = 1 / 86_400


class OnlineRows:
    """A fake of the online view: rows by user, the newest kept."""

    def __init__(self, features: Any, view: str) -> None:
        self._rows, self._view = features.online_rows.setdefault(view, {}), view

    def write(self, table: pa.Table) -> None:
        """Keep the newest."""
        for row in table.to_pylist():
            known = self._rows.get(row["user_id"], row["event_timestamp"])
            self._rows[row["user_id"]] = max(known, row["event_timestamp"])


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setattr(refresh_module, "OnlineView", OnlineRows)
    world = make_world(tmp_path)
    world.backfill(as_of=day(10.5))
    world.embedder.calls.clear()
    return world


def _refresh(world: World, *scenarios: str, **options: Any) -> dict[str, ScenarioRefresh]:
    request = RefreshRequest(scenarios or SCENARIOS, **options)
    return refresh(world.site, request, Silent(), world.load)


def _newest(world: World, view: str = "user_emb_takeout") -> dict[str, tuple[datetime, Sequence[float]]]:
    return {row["user_id"]: (row["event_timestamp"], row["emb_takeout"]) for row in world.rows(view)}


def test_only_who_did_something_is_embedded_and_as_a_backfill_would(world: World, tmp_path: Path) -> None:
    before = _newest(world)
    add_events(world.home, world.workspace, [("bob", 12, "bill"), ("dan", 13, "bill")])
    takeout = _refresh(world)["takeout"]
    assert (takeout.touched, takeout.embedded, takeout.pending) == (2, 2, 0)
    after = _newest(world)
    assert {user for user in after if after[user] != before.get(user)} == {"bob", "dan"}
    twin = make_world(tmp_path / "twin")
    add_events(twin.home, twin.workspace, [("bob", 12, "bill"), ("dan", 13, "bill")])
    twin.backfill()
    whole = _newest(twin)
    assert {user: after[user] for user in ("bob", "dan")} == {user: whole[user] for user in ("bob", "dan")}


def test_every_store_and_the_manifest_follow(world: World) -> None:
    first = active_manifest(world.engine, "money")
    add_events(world.home, world.workspace, [("bob", 12, "bill")])
    manifest = _refresh(world)["money"].manifest
    assert active_manifest(world.engine, "money").id == manifest.id != first.id
    assert manifest.rows == first.rows + 1 == len(world.rows("user_emb_money"))
    assert generation_checksum(world.home.root / manifest.path, "money") == manifest.content_hash
    moment = day(12 + _SECOND)
    assert manifest.as_of == moment.replace(tzinfo=None)
    assert world.features.online_rows["user_emb_money"]["bob"] == moment
    assert world.features.online_rows["user_emb_money"]["ann"] == day(10.5)
    assert world.features.online_rows["user_activity"]["bob"] == moment
    assert ("bob", round(12 + _SECOND, 6)) in world.pairs("user_activity")


def test_nothing_new_changes_nothing_and_loads_no_model(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = active_manifest(world.engine, "takeout").id
    monkeypatch.setattr(world, "load", lambda *_: pytest.fail("no model is needed"))
    assert {name: one.embedded for name, one in _refresh(world).items()} == dict.fromkeys(SCENARIOS, 0)
    assert active_manifest(world.engine, "takeout").id == before


def test_an_event_at_the_cutoff_is_not_read(world: World) -> None:
    add_events(world.home, world.workspace, [("bob", 12, "bill"), ("cyd", 12, "bill"), ("ann", 11.5, "bill")])
    takeout = _refresh(world, "takeout", as_of=day(12))["takeout"]
    assert takeout.embedded == 1
    assert _newest(world)["ann"][0] == day(12)


def test_a_late_event_is_noticed(world: World) -> None:
    add_events(world.home, world.workspace, [("bob", 12, "bill")])
    _refresh(world)
    late = [("ann", 4, "bill")]
    add_events(world.home, world.workspace, late, arrived=14)
    takeout = _refresh(world, "takeout")["takeout"]
    assert takeout.embedded == 1
    row = next(row for row in reversed(world.rows("user_emb_takeout")) if row["user_id"] == "ann")
    assert row["n_events"] == 4


def test_events_that_left_the_window_count(world: World) -> None:
    add_events(world.home, world.workspace, [("eve", 95, "bill")])
    takeout = _refresh(world, "takeout", expired=True)["takeout"]
    assert takeout.embedded == 3  # eve is new, ann and bob have lost events, cyd's has not left yet
    rows = {row["user_id"]: row["n_events"] for row in world.rows("user_emb_takeout")}
    assert (rows["bob"], rows["eve"]) == (0, 1)


def test_users_with_expired_events_wait_for_the_backfill_by_default(world: World) -> None:
    add_events(world.home, world.workspace, [("eve", 95, "bill")])
    assert _refresh(world, "takeout")["takeout"].embedded == 1


def test_a_refresh_at_once_again_finds_nothing(world: World) -> None:
    add_events(world.home, world.workspace, [("bob", 12, "bill"), ("ann", 12, "card")])
    assert [_refresh(world, "takeout")["takeout"].embedded for _ in range(2)] == [2, 0]


def test_a_small_change_waits_until_it_has_grown(world: World) -> None:
    add_events(world.home, world.workspace, [("ann", 11, "bill")])
    first = _refresh(world, "takeout", budget=0.3)["takeout"]
    assert (first.touched, first.embedded, first.pending) == (1, 0, 1)
    assert 0 < first.largest_pending <= 0.3
    many = [("ann", 11.1 + number / 100, "card") for number in range(6)]
    add_events(world.home, world.workspace, many)
    assert _refresh(world, "takeout", budget=0.3)["takeout"].embedded == 1


def test_budgets_are_the_scenarios_own(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    specs = dict(world.workspace.scenarios)
    specs["money"] = specs["money"].model_copy(update={"refresh_budget": 0.9})
    monkeypatch.setattr(type(world.workspace), "scenario", lambda _self, name: specs[name])
    add_events(world.home, world.workspace, [("ann", 11, "bill")])
    embedded = {name: one.embedded for name, one in _refresh(world).items()}
    assert embedded == {"money": 0, "takeout": 1, "quiet": 1}


def test_refreshes_follow_each_other_and_can_be_taken_back(world: World) -> None:
    for moment in (11, 12, 13):
        add_events(world.home, world.workspace, [("bob", moment, "bill")])
        assert _refresh(world, "takeout")["takeout"].embedded >= 1
    assert len([pair for pair in world.pairs("user_emb_takeout") if pair[0] == "bob"]) == 4
    promote(world.site, {"takeout": rollback_target(world.site, "takeout")}, Silent())
    assert len([pair for pair in world.pairs("user_emb_takeout") if pair[0] == "bob"]) == 3
    assert [job.state for job in list_jobs(world.engine, 9)] == ["done"] * 4


@pytest.mark.parametrize("name", ["_embed", "new_manifest", "_new_rows", "promote"])
def test_a_refresh_that_was_killed_is_done_again(
    world: World, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    add_events(world.home, world.workspace, [("bob", 12, "bill")])

    def killed(*_: Any, **__: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(refresh_module, name, killed)
        with pytest.raises(Killed):
            _refresh(world)
    assert {name: one.embedded for name, one in _refresh(world).items()} == dict.fromkeys(SCENARIOS, 1)
    for scenario in SCENARIOS:
        manifest = active_manifest(world.engine, scenario)
        assert generation_checksum(world.home.root / manifest.path, scenario) == manifest.content_hash
        assert len(world.rows(f"user_emb_{scenario}")) == manifest.rows


def test_a_refresh_that_was_killed_after_its_promotion_loses_no_vector(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_events(world.home, world.workspace, [("bob", 12, "bill")])

    def killed(_: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(ShardedJob, "end", killed)
        with pytest.raises(Killed):
            _refresh(world, "takeout")
    add_events(world.home, world.workspace, [("ann", 13, "bill")])
    assert _refresh(world, "takeout")["takeout"].embedded == 1
    manifest = active_manifest(world.engine, "takeout")
    assert generation_checksum(world.home.root / manifest.path, "takeout") == manifest.content_hash
    assert {user for user, _ in world.pairs("user_emb_takeout")} == {"ann", "bob", "cyd"}
    assert len(world.rows("user_emb_takeout")) == manifest.rows == 5


def test_a_backfill_that_came_between_wins(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    add_events(world.home, world.workspace, [("bob", 12, "bill")])
    original = refresh_module._embed

    def slow(*arguments: Any) -> Any:
        made = original(*arguments)
        world.backfill("takeout")
        return made

    monkeypatch.setattr(refresh_module, "_embed", slow)
    with pytest.raises(NotReady, match="replaced meanwhile"):
        _refresh(world, "takeout")
    assert len(world.pairs("user_emb_takeout")) == 3


def test_two_refreshes_at_once_are_refused(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    add_events(world.home, world.workspace, [("bob", 12, "bill")])
    seen = []
    load = world.load

    def second(*arguments: Any) -> Any:
        with pytest.raises(NotReady, match="another refresh"):
            refresh(world.site, RefreshRequest(["money"]), Silent(), load)
        seen.append(threading.get_ident())
        return load(*arguments)

    monkeypatch.setattr(world, "load", second)
    _refresh(world, "takeout")
    assert seen


def test_what_has_to_come_first_is_named(world: World, tmp_path: Path) -> None:
    empty = make_world(tmp_path / "empty")
    with pytest.raises(NotReady, match="backfill --scenario takeout"):
        _refresh(empty, "takeout")
    with pytest.raises(InputError, match="later --as-of"):
        _refresh(world, "takeout", as_of=day(9))
    register_model(world.engine, model("m2"))
    with pytest.raises(NotReady, match="earlier model or prompt"):
        _refresh(world, "takeout")


def test_staleness_is_the_age_of_the_moment(world: World) -> None:
    manifest = active_manifest(world.engine, "takeout")
    now = (day(10.5) + timedelta(hours=1)).astimezone(UTC).timestamp()
    assert staleness_seconds(manifest, now) == 3600
