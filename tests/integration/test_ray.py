"""A backfill on a Ray cluster: the same vectors as in one process, whoever dies on the way."""

import os
import signal
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from qanchor.embedding.backfill import BackfillResult, backfill
from qanchor.embedding.cluster import ClusterOptions, RayEngine
from qanchor.embedding.job import BackfillRequest
from qanchor.embedding.remote import RemoteWorker
from qanchor.embedding.shard import Embedder
from qanchor.embedding.spaces import Space
from qanchor.embedding.worker import LoadEmbedder
from qanchor.errors import InputError, StateError, StoreUnavailable
from qanchor.progress import Silent
from qanchor.registry.jobs import find_job
from qanchor.registry.session import transaction
from qanchor.registry.tables import JobShard
from qanchor.settings import Settings
from qanchor.site import Site
from tests.unit.embedding.world import HashEmbedder, World, make_world

pytest.importorskip("ray", reason="ray is not installed: pip install 'qanchor[ray]'")
# One cluster at a time: each start of Ray takes seconds of every core.
pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.xdist_group("ray")]


class HashWorker(RemoteWorker):
    """A worker whose model is the hash of what is read."""

    def loader(self, site: Site) -> LoadEmbedder:
        """Makes it."""
        embedder = HashEmbedder(site.workspace)

        def load(spaces: Sequence[Space]) -> tuple[Embedder, list[Any]]:
            return self.prepared(embedder, site), [space.fingerprint for space in spaces]

        return load

    def prepared(self, embedder: HashEmbedder, site: Site) -> Embedder:
        """The embedder as it is used here."""
        return embedder


class SlowWorker(HashWorker):
    """The first one to embed writes down who it is, and waits to be killed."""

    def prepared(self, embedder: HashEmbedder, site: Site) -> Embedder:
        """An embedder that waits."""
        made, victim = embedder.embed, site.home.root / "victim"

        def embed(*given: Any) -> Any:
            if not victim.exists():
                part = victim.with_suffix(f".{os.getpid()}")
                part.write_text(str(os.getpid()))
                part.rename(victim)
            while victim.read_text() == str(os.getpid()):
                time.sleep(0.05)
            return made(*given)

        setattr(embedder, "embed", embed)  # noqa: B010  # mypy lets no method be assigned
        return embedder


class MortalWorker(HashWorker):
    """Dies of whatever it embeds."""

    def prepared(self, embedder: HashEmbedder, site: Site) -> Embedder:
        """An embedder that kills its process."""
        setattr(embedder, "embed", lambda *_: os.kill(os.getpid(), signal.SIGKILL))  # noqa: B010
        return embedder


def _settings(world: World) -> Settings:
    return Settings(home=world.home.root, repo=world.workspace.repo)


def _backfill(world: World, worker: type[RemoteWorker], **options: Any) -> BackfillResult:
    engine = RayEngine(_settings(world), ClusterOptions(**{"workers": 2, **options}), worker)
    request = BackfillRequest(("takeout", "money"), shard_users=1)
    return backfill(world.site, request, Silent(), engine)


def _kill_when_it_is_known(victim: Path, killed: list[int]) -> None:
    deadline = time.monotonic() + 60
    while not victim.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    killed.append(int(victim.read_text()))
    os.kill(killed[0], signal.SIGKILL)


def test_a_killed_worker_costs_its_shard_and_the_vectors_are_those_of_one_process(tmp_path: Path) -> None:
    world, alone = make_world(tmp_path / "cluster"), make_world(tmp_path / "alone")
    killed: list[int] = []
    killer = threading.Thread(target=_kill_when_it_is_known, args=(world.home.root / "victim", killed))
    killer.start()
    result = _backfill(world, SlowWorker)
    killer.join()
    expected = alone.backfill("takeout", "money", shard_users=1)
    assert {name: m.content_hash for name, m in result.manifests.items()} == {
        name: m.content_hash for name, m in expected.manifests.items()
    }
    assert killed
    with transaction(world.engine) as session:
        shards = session.query(JobShard).order_by(JobShard.number).all()
    assert sorted(shard.attempts for shard in shards) == [1, 1, 1, 2]
    # No shard is of the one that died, and the whole work was done by actors.
    assert str(killed[0]) not in {(shard.owner or "").split("/")[1] for shard in shards}
    assert str(os.getpid()) not in {(shard.owner or "").split("/")[1] for shard in shards}
    assert (result.embedded, find_job(world.engine, result.job_id).state) == (7, "done")
    import ray

    assert not ray.is_initialized()


def test_workers_that_keep_dying_end_the_backfill_and_another_engine_goes_on(tmp_path: Path) -> None:
    world = make_world(tmp_path)
    with pytest.raises(StateError, match="2 Ray workers died, and 4 shards are left"):
        _backfill(world, MortalWorker, workers=1, max_deaths=2)
    result = world.backfill("takeout", "money", shard_users=1)
    assert (result.embedded, [m.rows for m in result.manifests.values()]) == (7, [3, 7])


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"address": "127.0.0.1:1"}, StoreUnavailable, "no Ray cluster answers at 127.0.0.1:1: Connection"),
        ({"address": "nowhere"}, InputError, "no address of a Ray cluster"),
    ],
)
def test_a_cluster_that_is_not_there_is_named(
    tmp_path: Path, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        _backfill(make_world(tmp_path), HashWorker, **options)
