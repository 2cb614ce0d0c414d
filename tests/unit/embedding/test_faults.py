"""What goes wrong outside: disks, databases, clocks, a second job, another number format."""

import errno
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from qanchor.embedding import refresh as refresh_module
from qanchor.embedding.refresh import RefreshRequest, refresh
from qanchor.embedding.spaces import settled_precision
from qanchor.errors import DatabaseUnavailable, DiskFull, NotReady
from qanchor.progress import Silent
from qanchor.registry.jobs import list_jobs
from qanchor.registry.manifests import active_manifest, active_manifests
from qanchor.registry.shards import ShardedJob
from qanchor.settings import ComputeSettings
from qanchor.storage import parts
from qanchor.storage.event_log import EventLog
from tests.unit.embedding.world import World, add_events, day, make_world

_SECOND = 1 / 86_400


@pytest.fixture
def world(tmp_path: Path) -> World:
    return make_world(tmp_path)


def _full(*_: Any, **__: Any) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def _seen(world: World, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Users as they are embedded."""
    seen: list[str] = []
    original = world.embedder.embed

    def embed(arrays: Any, rows: Any, *others: Any) -> Any:
        seen.extend(str(arrays.users[row]) for row in rows)
        return original(arrays, rows, *others)

    monkeypatch.setattr(world.embedder, "embed", embed)
    return seen


def _at_call(number: int, deed: Callable[..., Any], original: Callable[..., Any]) -> Callable[..., Any]:
    calls: list[int] = []

    def counted(*arguments: Any, **named: Any) -> Any:
        calls.append(1)
        return (deed if len(calls) == number else original)(*arguments, **named)

    return counted


def test_a_disk_that_fills_up_costs_its_shard_and_shows_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = _seen(world, monkeypatch)
    with monkeypatch.context() as patch:
        patch.setattr(parts, "part_writer", _at_call(2, _full, parts.part_writer))
        with pytest.raises(DiskFull, match=r"no space left for .* Free some"):
            world.backfill("takeout", shard_users=1)
    assert active_manifests(world.engine, ["takeout"]) == {}
    assert [job.state for job in list_jobs(world.engine, 9)] == ["failed"]
    seen.clear()
    result = world.backfill("takeout", shard_users=1)
    assert (seen, result.manifests["takeout"].rows) == (["bob", "cyd"], 3)


def test_a_disk_that_fills_up_while_publishing_leaves_what_serves(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = world.backfill("takeout", as_of=day(9.5)).manifests["takeout"].id
    rows = world.rows("user_emb_takeout")
    with monkeypatch.context() as patch:
        patch.setattr(parts, "link_part", _full)
        with pytest.raises(DiskFull):
            world.backfill("takeout")
    assert (active_manifest(world.engine, "takeout").id, world.rows("user_emb_takeout")) == (before, rows)
    assert world.backfill("takeout").embedded == 0


def test_a_database_that_goes_away_at_the_end_of_a_shard_loses_that_shard_alone(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(*_: Any) -> None:
        raise DatabaseUnavailable("the registry database failed", "Start it.")

    seen = _seen(world, monkeypatch)
    with monkeypatch.context() as patch:
        patch.setattr(ShardedJob, "finish", _at_call(2, gone, ShardedJob.finish))
        with pytest.raises(DatabaseUnavailable):
            world.backfill("takeout", shard_users=1)
    assert active_manifests(world.engine, ["takeout"]) == {}
    seen.clear()
    assert world.backfill("takeout", shard_users=1).manifests["takeout"].rows == 3
    assert seen == ["bob", "cyd"]


def test_a_database_that_is_gone_for_a_moment_costs_no_lease(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ShardedJob.__init__, "__defaults__", ("", 0.4))
    failed: list[int] = []
    renew = ShardedJob.renew

    def flaky(job: ShardedJob, number: int | None) -> None:
        failed.append(1)
        if len(failed) % 2:
            raise DatabaseUnavailable("the registry database failed", "Start it.")
        renew(job, number)

    monkeypatch.setattr(ShardedJob, "renew", flaky)
    original = world.embedder.embed

    def slow(*arguments: Any) -> Any:
        deadline = len(failed) + 4
        while len(failed) < deadline:
            pass
        return original(*arguments)

    monkeypatch.setattr(world.embedder, "embed", slow)
    assert world.backfill("takeout").embedded == 3


@pytest.mark.parametrize("options", [{"as_of": day(9.5)}, {"shard_users": 1}])
def test_a_different_backfill_of_the_same_scenario_is_refused_while_one_runs(
    world: World, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
) -> None:
    load = world.load

    def second(spaces: Any) -> Any:
        monkeypatch.setattr(world, "load", load)
        with pytest.raises(NotReady, match="another backfill is running, job 1"):
            world.backfill("takeout", **options)
        return load(spaces)

    monkeypatch.setattr(world, "load", second)
    result = world.backfill("takeout")
    assert result.manifests["takeout"].state == "active"
    assert world.pairs("user_emb_takeout") == [
        (user, round(10 + _SECOND, 6)) for user in ("ann", "bob", "cyd")
    ]


class _NoOnline:
    def __init__(self, *_: Any) -> None:
        pass

    def write(self, table: pa.Table) -> None:
        """Nowhere."""


def _refreshed(world: World, monkeypatch: pytest.MonkeyPatch, **options: Any) -> int:
    monkeypatch.setattr(refresh_module, "OnlineView", _NoOnline)
    request = RefreshRequest(["takeout"], **options)
    return refresh(world.site, request, Silent(), world.load)["takeout"].embedded


@pytest.mark.parametrize(("behind", "noticed"), [(30, 1), (3_000, 0)])
def test_an_event_of_a_consumer_whose_clock_is_behind_is_noticed_within_a_minute(
    world: World, monkeypatch: pytest.MonkeyPatch, behind: int, noticed: int
) -> None:
    world.backfill("takeout")  # has read arrivals up to day 10
    log = EventLog(world.home.events, world.workspace)
    row = {
        "event_id": "behind", "user_id": "bob", "modality": "bill", "shop": "corner", "amount": 1.0,
        "event_time": day(9.9), "_ingested_at": day(10) - timedelta(seconds=behind),
    }  # fmt: skip
    log.publish(log.stage(pa.Table.from_pylist([row], schema=log.schema)))
    log.close()
    assert _refreshed(world, monkeypatch) == noticed
    # What is further behind is the nightly backfill's.
    world.backfill("takeout", as_of=day(11))
    events = {row["user_id"]: row["n_events"] for row in world.rows("user_emb_takeout")}
    assert events["bob"] == 2


def test_a_worker_whose_clock_is_ahead_takes_no_lease_early(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.backfill("takeout")  # makes the tables
    from qanchor.registry import shards
    from qanchor.registry.jobs import open_job

    job = open_job(world.engine, "backfill", "k", {}, [1])
    here, ahead = ShardedJob(world.engine, job), ShardedJob(world.engine, job)
    assert here.claim() == 0
    later = datetime(2100, 1, 1)
    monkeypatch.setattr(shards, "utc_now", lambda: later)
    monkeypatch.setattr("time.time", later.timestamp)
    assert ahead.claim() is None
    here.renew(0)


def test_another_number_format_is_another_space(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    first = world.backfill("takeout").manifests["takeout"]
    add_events(world.home, world.workspace, [("bob", 12, "bill")])
    with pytest.raises(NotReady, match="of another number format"):
        _refreshed(world, monkeypatch, precision="int8")
    second = world.backfill("takeout", precision="int8").manifests["takeout"]
    assert second.fingerprint != first.fingerprint
    assert world.features.fingerprint("takeout") == second.fingerprint
    add_events(world.home, world.workspace, [("ann", 13, "bill")])
    with pytest.raises(NotReady, match="of another number format"):
        _refreshed(world, monkeypatch)
    assert _refreshed(world, monkeypatch, precision="int8") == 1


@pytest.mark.parametrize(
    ("precision", "device", "on_gpu", "settled"),
    [
        ("auto", "cpu", None, "float32"),
        ("auto", "auto", False, "float32"),
        ("auto", "auto", True, "bfloat16"),
        ("int8", "auto", None, "int8"),
        ("float32", "auto", True, "float32"),
    ],
)
def test_auto_is_settled_before_the_space_is_named(
    precision: Any, device: str, on_gpu: bool | None, settled: str
) -> None:
    assert settled_precision(ComputeSettings(device=device, precision=precision), on_gpu) == settled
