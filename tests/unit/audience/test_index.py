"""An index holds the newest vector of each user of the active manifest, or the earlier index stays."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest
from sqlalchemy import Engine

from qanchor.audience.index import build_scenario_index, open_scenario_index
from qanchor.errors import IndexInvalid, NotReady
from qanchor.home import Home
from qanchor.registry.manifests import activate_manifest, begin_manifest, part_name
from qanchor.registry.migrate import prepare
from qanchor.registry.session import open_engine
from qanchor.registry.versions import active_index, register_model
from qanchor.storage.parts import embedding_schema, write_part
from tests.unit.registry.rows import manifest, model

DAY = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def home(tmp_path: object) -> Home:
    return Home(tmp_path)  # type: ignore[arg-type]


@pytest.fixture
def engine(home: Home) -> Engine:
    url = f"sqlite:///{home.database}"
    engine = open_engine(url)
    prepare(engine, url)
    register_model(engine, model())
    return engine


def _embed(home: Home, engine: Engine, rows: list[tuple[str, int, int]], length: float = 1.0) -> int:
    """Publish (user, axis, day) rows, each the unit vector of that axis, in two parts."""
    row = begin_manifest(engine, manifest())
    for number, some in enumerate((rows[::2], rows[1::2])):
        moments = [DAY + timedelta(days=day) for _, _, day in some]
        table = pa.table(
            {
                "user_id": [user for user, _, _ in some],
                "emb_money": [(length * np.eye(128)[axis]).tolist() for _, axis, _ in some],
                "model_version": ["m1"] * len(some),
                "n_events": [1] * len(some),
                "last_event_ts": moments,
                "event_timestamp": moments,
                "created": moments,
            }
        ).cast(embedding_schema("money"))
        write_part(home.view("user_emb_money"), table, part_name(row.id, number))
    activate_manifest(engine, row, len(rows), "hash")
    return row.id


def test_the_newest_vector_of_each_user_is_indexed(home: Home, engine: Engine) -> None:
    owner = _embed(home, engine, [("a", 0, 0), ("b", 1, 0), ("a", 2, 9), ("c", 3, 0), ("b", 4, 5)])
    row = build_scenario_index(home, engine, "money")
    index = open_scenario_index(home, engine, "money").index
    assert (row.rows, row.kind, row.manifest_id) == (3, "flat", owner)
    assert index.users.to_pylist() == ["a", "b", "c"]
    assert index.vectors(np.arange(3)).argmax(axis=1).tolist() == [2, 4, 3]
    assert index.metadata.as_of == (DAY + timedelta(days=9)).isoformat()


def test_parts_of_other_manifests_are_not_read(home: Home, engine: Engine) -> None:
    _embed(home, engine, [("old", 0, 50), ("older", 0, 50)])
    _embed(home, engine, [("a", 1, 0), ("b", 2, 0)])
    build_scenario_index(home, engine, "money")
    assert open_scenario_index(home, engine, "money").index.users.to_pylist() == ["a", "b"]


def test_an_index_built_before_the_newest_vectors_says_so(home: Home, engine: Engine) -> None:
    _embed(home, engine, [("a", 0, 0), ("b", 1, 0)])
    build_scenario_index(home, engine, "money")
    assert not open_scenario_index(home, engine, "money").is_behind
    _embed(home, engine, [("a", 0, 1), ("b", 1, 1)])
    assert open_scenario_index(home, engine, "money").is_behind


def test_an_index_that_has_a_successor_is_removed(home: Home, engine: Engine) -> None:
    _embed(home, engine, [("a", 0, 0), ("b", 1, 0)])
    versions = [build_scenario_index(home, engine, "money").version for _ in range(2)]
    assert [path.name for path in (home.indexes / "money").iterdir()] == versions[1:]


def test_the_last_good_index_serves_when_a_build_fails(home: Home, engine: Engine) -> None:
    _embed(home, engine, [("a", 0, 0), ("b", 1, 0)])
    good = build_scenario_index(home, engine, "money").version
    _embed(home, engine, [("a", 0, 1), ("b", 1, 1)], length=3.0)
    with pytest.raises(IndexInvalid, match="length 3"):
        build_scenario_index(home, engine, "money")
    assert active_index(engine, "money").version == good
    assert open_scenario_index(home, engine, "money").index.users.to_pylist() == ["a", "b"]


def test_a_build_that_is_killed_leaves_the_earlier_index(
    home: Home, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    _embed(home, engine, [("a", 0, 0), ("b", 1, 0)])
    good = build_scenario_index(home, engine, "money").version

    def kill(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("qanchor.audience.index.register_index", kill)
    with pytest.raises(KeyboardInterrupt):
        build_scenario_index(home, engine, "money")
    monkeypatch.undo()
    assert open_scenario_index(home, engine, "money").version == good
    newest = build_scenario_index(home, engine, "money").version
    assert [path.name for path in (home.indexes / "money").iterdir()] == [newest]


def test_parts_that_went_missing_are_noticed(home: Home, engine: Engine) -> None:
    owner = _embed(home, engine, [("a", 0, 0), ("b", 1, 0), ("c", 2, 0)])
    (home.view("user_emb_money") / f"{part_name(owner, 1)}.parquet").unlink()
    with pytest.raises(NotReady, match="2 of the 3 embeddings"):
        build_scenario_index(home, engine, "money")


@pytest.mark.parametrize(
    ("ask", "remedy"), [(build_scenario_index, "backfill"), (open_scenario_index, "index build")]
)
def test_a_scenario_without_vectors_or_index_names_the_command(  # type: ignore[no-untyped-def]
    home: Home, engine: Engine, ask, remedy: str
) -> None:
    with pytest.raises(NotReady, match=f"{remedy} --scenario money"):
        ask(home, engine, "money")
