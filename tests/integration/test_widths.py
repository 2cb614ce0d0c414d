"""A scenario that is served at a nested width: the same cut vectors in every store, and back again."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from sqlalchemy.orm import Session

from qanchor.audience.index import build_scenario_index
from qanchor.embedding.publish import promote, rollback_target
from qanchor.embedding.refresh import RefreshRequest, refresh
from qanchor.embedding.verify import verify
from qanchor.errors import InputError, NotReady
from qanchor.events.labels import read_labels
from qanchor.model.space import narrowed
from qanchor.progress import Silent
from qanchor.registry.manifests import active_manifest
from qanchor.registry.tables import ModelVersion
from qanchor.storage.features import FeatureRepository
from qanchor.storage.vectors import load_index
from tests.integration.test_backfill import Chain
from tests.unit.embedding.world import add_events, day, make_world

pytestmark = pytest.mark.integration
VIEW = "user_emb_money"


@pytest.fixture
def chain(tmp_path: Path) -> Iterator[Chain]:
    """Whole vectors of a model that was trained for 32, 64 and all numbers."""
    world = make_world(tmp_path)
    chain = Chain(world, FeatureRepository(world.workspace, world.home))
    version = chain.train(seed=0)
    with Session(world.engine) as session, session.begin():
        row = session.get(ModelVersion, version)
        assert row is not None
        row.metrics = {"widths": [32, 64, 128]}
    chain.backfill()
    yield chain
    chain.features.close()


def _ask(chain: Chain, width: int) -> None:
    """Set the width of the scenario money, as an edit of scenarios.yaml does."""
    workspace = chain.world.workspace
    spec = workspace.scenarios["money"].model_copy(update={"width": width})
    chain.world.workspace = replace(workspace, scenarios={**workspace.scenarios, "money": spec})
    chain.features.close()
    chain.features = FeatureRepository(chain.world.workspace, chain.world.home)


def _length(chain: Chain) -> int:
    features = chain.features.store.get_feature_view(VIEW).features
    return int(next(field.vector_length for field in features if field.vector_index))


def _offline(chain: Chain) -> dict[tuple[str, object], np.ndarray]:
    rows = chain.world.rows(VIEW)
    return {(row["user_id"], row["event_timestamp"]): np.array(row["emb_money"], np.float32) for row in rows}


def test_a_narrower_width_is_cut_alike_in_every_store_and_taken_back_by_a_rollback(chain: Chain) -> None:
    whole, space = _offline(chain), active_manifest(chain.world.engine, "money").fingerprint
    _ask(chain, 64)
    chain.features.apply()
    assert _length(chain) == 128  # what serves is still whole
    result = chain.backfill()
    manifest = active_manifest(chain.world.engine, "money")
    assert (manifest.width, _length(chain)) == (64, 64)
    assert manifest.fingerprint != space
    assert result.manifests["takeout"].width == 128
    served = _offline(chain)
    assert served.keys() == whole.keys()
    for key, vector in served.items():
        np.testing.assert_allclose(vector, narrowed(whole[key], 64), atol=1e-6)
    assert result.as_of is not None
    online = chain.features.online(["ann", "nobody"], [f"{VIEW}:emb_money"], at=result.as_of)
    vectors = online["emb_money"].to_pylist()
    np.testing.assert_array_equal(np.array(vectors[0], np.float32), served["ann", result.as_of])
    assert vectors[1] is None
    frame = chain.features.training_frame(read_labels(chain.world.home, "money").table, [VIEW])
    assert frame["emb_money"].type.list_size == 64
    row = build_scenario_index(chain.world.site, "money")
    assert load_index(chain.world.home.root / row.path).dim == 64
    assert [check for check in verify(chain.site, "money") if not check.agrees] == []
    promote(chain.site, {"money": rollback_target(chain.site, "money")}, Silent())
    assert _length(chain) == 128
    checks = {check.store: check for check in verify(chain.site, "money")}
    assert checks["offline"].agrees
    assert checks["online"].agrees


def test_a_refresh_keeps_the_width_and_refuses_another(chain: Chain) -> None:
    world = chain.world
    _ask(chain, 32)
    with pytest.raises(NotReady, match=r"width.*backfill"):
        refresh(chain.site, RefreshRequest(["money"]), Silent())
    chain.backfill()
    add_events(world.home, world.workspace, [("bob", 11, "bill")])
    done = refresh(chain.site, RefreshRequest(["money"]), Silent())["money"]
    assert (done.embedded, done.manifest.width) == (1, 32)
    paths = sorted((world.home.root / done.manifest.path).glob("0*.parquet"))
    lengths = {len(v) for path in paths for v in pq.read_table(path)["emb_money"].to_pylist()}
    assert lengths == {32}
    assert [check for check in verify(chain.site, "money") if not check.agrees] == []


def test_a_width_that_the_model_was_not_trained_for_is_refused_with_those_it_has(chain: Chain) -> None:
    _ask(chain, 50)
    with pytest.raises(InputError, match=r"asks for width 50.*trained for 32, 64, 128.*--widths 50"):
        chain.backfill()
    assert active_manifest(chain.world.engine, "money").width == 128
    assert len(chain.features.online(["ann"], [f"{VIEW}:emb_money"], at=day(10.5))["emb_money"][0]) == 128
