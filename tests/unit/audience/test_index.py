"""An index holds the newest vector of each user of the active manifest, or the earlier index stays."""

from datetime import timedelta

import numpy as np
import pytest

from qanchor.audience.index import build_scenario_index, open_scenario_index, update_scenario_index
from qanchor.errors import IndexInvalid, NotReady
from qanchor.registry.manifests import part_name
from qanchor.registry.versions import active_index
from qanchor.site import Site
from tests.unit.audience.published import DAY, embed, many


def test_the_newest_vector_of_each_user_is_indexed(site: Site) -> None:
    owner = embed(site, [("a", 0, 0), ("b", 1, 0), ("a", 2, 9), ("c", 3, 0), ("b", 4, 5)])
    row = build_scenario_index(site, "money")
    index = open_scenario_index(site, "money").index
    assert (row.rows, row.kind, row.manifest_id) == (3, "flat", owner)
    assert index.users.to_pylist() == ["a", "b", "c"]
    assert index.vectors(np.arange(3)).argmax(axis=1).tolist() == [2, 4, 3]
    assert index.metadata.as_of == (DAY + timedelta(days=9)).isoformat()


def test_parts_of_other_manifests_are_not_read(site: Site) -> None:
    embed(site, [("old", 0, 50), ("older", 0, 50)])
    embed(site, [("a", 1, 0), ("b", 2, 0)])
    build_scenario_index(site, "money")
    assert open_scenario_index(site, "money").index.users.to_pylist() == ["a", "b"]


def test_an_index_built_before_the_newest_vectors_says_so(site: Site) -> None:
    embed(site, [("a", 0, 0), ("b", 1, 0)])
    build_scenario_index(site, "money")
    assert not open_scenario_index(site, "money").is_behind
    embed(site, [("a", 0, 1), ("b", 1, 1)])
    assert open_scenario_index(site, "money").is_behind


def test_an_index_that_has_a_successor_is_removed(site: Site) -> None:
    embed(site, [("a", 0, 0), ("b", 1, 0)])
    versions = [build_scenario_index(site, "money").version for _ in range(2)]
    assert [path.name for path in (site.home.indexes / "money").iterdir()] == versions[1:]


def test_the_last_good_index_serves_when_a_build_fails(site: Site) -> None:
    embed(site, [("a", 0, 0), ("b", 1, 0)])
    good = build_scenario_index(site, "money").version
    embed(site, [("a", 0, 1), ("b", 1, 1)], length=3.0)
    with pytest.raises(IndexInvalid, match="length 3"):
        build_scenario_index(site, "money")
    assert active_index(site.engine, "money").version == good
    assert open_scenario_index(site, "money").index.users.to_pylist() == ["a", "b"]


def test_a_build_that_is_killed_leaves_the_earlier_index(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    embed(site, [("a", 0, 0), ("b", 1, 0)])
    good = build_scenario_index(site, "money").version

    def kill(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("qanchor.audience.index.register_index", kill)
    with pytest.raises(KeyboardInterrupt):
        build_scenario_index(site, "money")
    monkeypatch.undo()
    assert open_scenario_index(site, "money").version == good
    newest = build_scenario_index(site, "money").version
    assert [path.name for path in (site.home.indexes / "money").iterdir()] == [newest]


def test_parts_that_went_missing_are_noticed(site: Site) -> None:
    owner = embed(site, [("a", 0, 0), ("b", 1, 0), ("c", 2, 0)])
    (site.home.generation("user_emb_money", owner) / f"{part_name(owner, 1)}.parquet").unlink()
    with pytest.raises(NotReady, match="2 of the 3 embeddings"):
        build_scenario_index(site, "money")


@pytest.mark.parametrize(
    ("ask", "remedy"), [(build_scenario_index, "backfill"), (open_scenario_index, "index build")]
)
def test_a_scenario_without_vectors_or_index_names_the_command(  # type: ignore[no-untyped-def]
    site: Site, ask, remedy: str
) -> None:
    with pytest.raises(NotReady, match=f"{remedy} --scenario money"):
        ask(site, "money")


def test_an_update_indexes_what_changed_and_links_the_rest(site: Site) -> None:
    embed(site, many(100))
    first = build_scenario_index(site, "money")
    assert update_scenario_index(site, "money").row.version == first.version
    owner = embed(site, [*many(100)[1:], ("u001", 77, 1), ("new", 5, 1)])
    update = update_scenario_index(site, "money")
    served = open_scenario_index(site, "money")
    assert (update.changed, update.removed, update.rebuilt) == (2, 1, False)
    assert (update.row.manifest_id, update.row.rows, served.is_behind) == (owner, 100, False)
    assert served.index.vectors(served.index.rows_of(["u001", "u002", "new"])).argmax(axis=1).tolist() == [
        77,
        2,
        5,
    ]
    assert served.index.rows_of(["u000"]).tolist() == [-1]
    assert [path.name for path in (site.home.indexes / "money").iterdir()] == [update.row.version]


def test_an_update_of_most_users_builds_the_index_anew(site: Site) -> None:
    embed(site, many(20))
    build_scenario_index(site, "money")
    embed(site, [(user, axis + 1, 1) for user, axis, _ in many(20)])
    update = update_scenario_index(site, "money")
    assert (update.changed, update.rebuilt) == (20, True)
    assert open_scenario_index(site, "money").index.size == 20


def test_an_update_of_a_damaged_index_builds_it_anew(site: Site) -> None:
    embed(site, many(20))
    row = build_scenario_index(site, "money")
    (site.home.root / row.path / "00000" / "index.faiss").write_bytes(b"no index")
    embed(site, many(21))
    assert update_scenario_index(site, "money").rebuilt
    assert open_scenario_index(site, "money").index.size == 21


def test_an_index_deleted_while_it_is_opened_gives_way_to_its_successor(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    embed(site, many(5))
    stale = build_scenario_index(site, "money")
    newest = build_scenario_index(site, "money")
    rows = iter([stale, newest])
    monkeypatch.setattr("qanchor.audience.index.active_index", lambda *_: next(rows))
    assert open_scenario_index(site, "money").version == newest.version
