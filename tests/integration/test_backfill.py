"""A backfill with the real Feast and a real, if random, model; and one that is killed for good."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qanchor.embedding.backfill import BackfillResult, backfill
from qanchor.embedding.job import BackfillRequest
from qanchor.events.history import load_event_arrays
from qanchor.events.labels import read_labels
from qanchor.model.build import build_model, make_tokenizer
from qanchor.model.checkpoint import load_model, save_model
from qanchor.model.config import preset_config
from qanchor.model.embedder import Query, UserEmbedder
from qanchor.model.features import Normaliser
from qanchor.progress import Silent
from qanchor.registry.manifests import active_manifests
from qanchor.registry.tables import ModelVersion, new_version
from qanchor.registry.versions import active_model, register_model
from qanchor.site import Site
from qanchor.storage.event_log import EventLog
from qanchor.storage.features import FeatureRepository
from qanchor.times import to_microseconds
from tests.unit.embedding.world import SCENARIOS, World, day, make_world

pytestmark = [pytest.mark.integration, pytest.mark.slow]

VIEWS = [f"user_emb_{name}" for name in SCENARIOS]


@dataclass
class Chain:
    """A world with real parts."""

    world: World
    features: FeatureRepository

    @property
    def site(self) -> Site:
        """Where it reads and writes."""
        return Site.at(self.world.workspace, self.world.home, self.world.engine, self.features)

    def backfill(self, **options: Any) -> BackfillResult:
        """Everything, for all scenarios."""
        return backfill(self.site, BackfillRequest(SCENARIOS, **options), Silent())

    def train(self, seed: int) -> str:
        """Put a random model in service; its version."""
        world = self.world
        arrays = load_event_arrays(EventLog(world.home.events, world.workspace), world.workspace)
        config = preset_config("tiny", world.workspace)
        queries = [spec.query for spec in world.workspace.scenarios.values()]
        tokenizer = make_tokenizer(config, [*arrays.texts, *queries])
        version = new_version()
        content = save_model(
            world.home.models / version,
            build_model(config, tokenizer, seed),
            tokenizer,
            Normaliser.fit(arrays, world.workspace.modalities),
            {},
        )
        row = ModelVersion(
            version=version,
            preset="tiny",
            path=f"models/{version}",
            content_hash=content,
            trained_until=datetime(2026, 1, 1),
            metrics={},
        )
        return register_model(world.engine, row).version


@pytest.fixture
def chain(tmp_path: Path) -> Iterator[Chain]:
    world = make_world(tmp_path)
    features = FeatureRepository(world.workspace, world.home)
    chain = Chain(world, features)
    chain.train(seed=0)
    yield chain
    features.close()


def test_offline_online_and_the_model_agree(chain: Chain) -> None:
    result = chain.backfill()
    world = chain.world
    assert result.as_of is not None
    arrays = load_event_arrays(EventLog(world.home.events, world.workspace), world.workspace)
    embedder = UserEmbedder(load_model(world.home.root / active_model(world.engine).path))
    users = ["ann", "bob", "cyd"]
    cutoffs = np.full(3, to_microseconds(result.as_of))
    question = Query(world.workspace.scenario("takeout").query)
    direct = embedder.embed(arrays, arrays.user_rows(users), cutoffs, [question])[0]
    online = chain.features.online(users, ["user_emb_takeout:emb_takeout"], at=result.as_of)
    served = np.stack([np.array(v, np.float32) for v in online["emb_takeout"].to_pylist()])
    offline = np.array([row["emb_takeout"] for row in world.rows("user_emb_takeout")], np.float32)
    np.testing.assert_allclose(served, direct, atol=1e-5)
    np.testing.assert_array_equal(served, offline)


def test_a_training_frame_has_the_vector_of_each_labels_own_time(chain: Chain) -> None:
    chain.backfill()
    labels = read_labels(chain.world.home, "money").table
    frame = chain.features.training_frame(labels, ["user_emb_money", "user_activity", "user_profile"])
    rows = {(row["user_id"], row["event_timestamp"]): row for row in chain.world.rows("user_emb_money")}
    assert frame.num_rows == 4
    for row in frame.to_pylist():
        np.testing.assert_array_equal(row["emb_money"], rows[row["user_id"], row["as_of"]]["emb_money"])
    assert {row["act_bill_count_90d"] for row in frame.to_pylist()} == {0.0, 1.0}


def test_another_model_replaces_the_vectors_of_the_same_moment_online(chain: Chain) -> None:
    first = chain.backfill()
    version = chain.train(seed=1)
    second = chain.backfill()
    online = chain.features.online(["ann"], ["user_emb_money:model_version"], at=day(11))
    assert online.to_pylist()[0]["user_emb_money__model_version"] == version
    assert first.as_of == second.as_of
    assert {row["model_version"] for view in VIEWS for row in chain.world.rows(view)} == {version}


_CHILD = """
import os, signal, sys
from pathlib import Path
import qanchor.embedding.publish as publish
from qanchor.storage.features import FeatureRepository
from tests.integration.test_backfill import open_chain
name, call = sys.argv[2], int(sys.argv[3])
owner = publish if hasattr(publish, name) else FeatureRepository
original, calls = getattr(owner, name), []
def counted(*arguments, **named):
    calls.append(1)
    if len(calls) == call:
        os.kill(os.getpid(), signal.SIGKILL)
    return original(*arguments, **named)
setattr(owner, name, counted)
open_chain(Path(sys.argv[1])).backfill()
"""


def open_chain(folder: Path) -> Chain:
    """The chain of a folder in which `make_world` ran."""
    from qanchor.home import Home
    from qanchor.registry.session import open_engine
    from qanchor.workspace import load_workspace
    from tests.unit.embedding.world import HashEmbedder, PlainFeatures

    home, workspace = Home(folder / "home"), load_workspace(folder / "repo")
    engine = open_engine(f"sqlite:///{home.database}")
    plain = PlainFeatures(workspace, home)
    world = World(workspace, home, engine, plain, HashEmbedder(workspace))
    return Chain(world, FeatureRepository(workspace, home))


@pytest.mark.parametrize(("name", "call"), [("write_part", 1), ("activate_manifests", 1)])
def test_a_backfill_that_got_sigkill_is_completed_by_the_next(
    chain: Chain, tmp_path: Path, name: str, call: int
) -> None:
    before = chain.backfill()
    killed = subprocess.run(
        [sys.executable, "-c", _CHILD, str(tmp_path), name, str(call)],
        cwd=Path(__file__).resolve().parents[2],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    after = chain.backfill()
    assert [m.content_hash for m in before.manifests.values()] == [
        m.content_hash for m in after.manifests.values()
    ]
    for view, manifest in zip(VIEWS, active_manifests(chain.world.engine, SCENARIOS).values(), strict=True):
        assert len(chain.world.rows(view)) == manifest.rows
    assert list((chain.world.home.cache / "backfill").glob("*")) == []
