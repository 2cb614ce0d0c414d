"""`verify` on real stores: damage is counted, and repaired where that is possible."""

import sqlite3
from collections.abc import Iterator

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from qanchor.audience.index import build_scenario_index
from qanchor.embedding.publish import promote, rollback_target
from qanchor.embedding.verify import StoreCheck, repair_online, verify
from qanchor.progress import Silent
from qanchor.registry.manifests import active_manifest
from qanchor.storage.features import FeatureRepository
from tests.integration.test_backfill import Chain
from tests.unit.embedding.world import day, make_world

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chain]:
    """Embedded as of two moments, with an index."""
    world = make_world(tmp_path_factory.mktemp("agree"))
    chain = Chain(world, FeatureRepository(world.workspace, world.home))
    chain.train(seed=0)
    chain.backfill(as_of=day(9.5))
    chain.backfill()
    build_scenario_index(world.site, "money")
    yield chain
    chain.features.close()


@pytest.fixture
def chain(embedded: Chain) -> Iterator[Chain]:
    """As `embedded`; what a test serves instead is taken back after it, for the next one."""
    newest = active_manifest(embedded.world.engine, "money")
    yield embedded
    promote(embedded.site, {"money": newest}, Silent())
    build_scenario_index(embedded.world.site, "money")


def _checks(chain: Chain) -> dict[str, StoreCheck]:
    return {check.store: check for check in verify(chain.site, "money")}


def _online(chain: Chain, statement: str) -> None:
    chain.features.close()
    with sqlite3.connect(chain.world.home.online_store) as connection:
        connection.execute(statement)


def test_stores_agree_after_a_backfill(chain: Chain) -> None:
    checks = _checks(chain)
    assert list(checks) == ["offline", "online", "index"]
    assert [check for check in checks.values() if not check.agrees] == []
    assert [check.expected for check in checks.values()] == [7, 4, 4]


def test_online_rows_that_are_gone_or_changed_are_counted_and_written_again(chain: Chain) -> None:
    table = "qanchor_user_emb_money"
    first = f"(SELECT min(entity_key) FROM {table})"
    _online(chain, f"DELETE FROM {table} WHERE entity_key = {first}")
    _online(
        chain,
        f"UPDATE {table} SET value = (SELECT value FROM {table} WHERE feature_name = 'emb_money'"
        f" AND entity_key != {first}) WHERE feature_name = 'emb_money' AND entity_key = {first}",
    )
    online = _checks(chain)["online"]
    assert (online.missing, online.different, online.agrees) == (1, 1, False)
    assert "--repair" in online.remedy
    repair_online(chain.site, "money")
    assert _checks(chain)["online"].agrees


def test_an_offline_row_that_was_changed_is_found_by_its_checksum(chain: Chain) -> None:
    folder = chain.world.home.root / active_manifest(chain.world.engine, "money").path
    path = next(path for path in sorted(folder.glob("0*.parquet")) if pq.read_metadata(path).num_rows)
    whole = pq.read_table(path, partitioning=None)
    vectors = whole["emb_money"].to_pylist()
    vectors[0] = vectors[1]
    column = pa.array(vectors, pa.list_(pa.float32()))
    pq.write_table(whole.set_column(whole.column_names.index("emb_money"), "emb_money", column), path)
    assert "not those that were written" in _checks(chain)["offline"].problem
    pq.write_table(whole.slice(1), path)
    assert _checks(chain)["offline"].missing == 1
    pq.write_table(whole, path)
    assert _checks(chain)["offline"].agrees


def test_an_index_of_other_vectors_is_found(chain: Chain) -> None:
    before, after = active_manifest(chain.world.engine, "money"), rollback_target(chain.site, "money")
    promote(chain.site, {"money": after}, Silent())
    index = _checks(chain)["index"]
    assert index.problem == f"built of manifest {before.id}, {after.id} serves"
    assert "index build" in index.remedy
    build_scenario_index(chain.world.site, "money")
    assert all(check.agrees for check in _checks(chain).values())


def test_a_rollback_serves_the_earlier_moment_online_too(chain: Chain) -> None:
    promote(chain.site, {"money": rollback_target(chain.site, "money")}, Silent())
    served = chain.features.online(["ann"], ["user_emb_money:emb_money"], at=day(9.5))
    rows = {(row["user_id"], row["event_timestamp"]): row for row in chain.world.rows("user_emb_money")}
    assert served["emb_money"].to_pylist() == [rows["ann", day(9.5)]["emb_money"]]
