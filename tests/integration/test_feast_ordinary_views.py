"""Views that are none of ours are stored and served as Feast's own stores do it."""

import asyncio
import inspect
import os
import zlib
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from qanchor.errors import FeaturesInvalid
from tests.contracts.feast_worlds import ARROW, GUARDED, GUARDED_REDIS, PART_FILES, FeastWorld, T, open_world
from tests.contracts.test_online_store_contract import needs_redis
from tests.unit.storage.rows import VIEW

pytestmark = [
    pytest.mark.integration,
    pytest.mark.filterwarnings("ignore:On demand feature view:RuntimeWarning"),
]
_DAY = timedelta(days=1)


@pytest.fixture(scope="module", params=["SQLite", pytest.param("Redis", marks=needs_redis)])
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[FeastWorld]:
    """Our stores with ordinary views beside those of the small workspace."""
    folder = tmp_path_factory.mktemp("ordinary")
    online: dict[str, Any] = {"type": GUARDED, "path": str(folder / "online.db")}
    if request.param == "Redis":
        online = {"type": GUARDED_REDIS, "connection_string": os.environ["QANCHOR_TEST_REDIS"]}
    project = f"o{zlib.crc32(str(folder).encode())}"
    made = open_world(folder, {"type": PART_FILES}, online, ARROW, project)
    made.store.apply(_ordinary(folder / "documents.parquet"))
    yield made
    made.store.teardown()


def _ordinary(path: Path) -> list[Any]:
    from feast import Entity, FeatureView, Field, FileSource, OnDemandFeatureView, ValueType
    from feast.transformation.pandas_transformation import PandasTransformation
    from feast.types import Array, Float32, Float64, Int64, String

    vectors = [np.ones(3, np.float32), None, np.zeros(3, np.float32)]
    rows = {"doc": [1, 2, 3], "free": vectors, "wide": vectors, "rank": [10, 20, 30], "at": [T] * 3}
    pd.DataFrame(rows).to_parquet(path)
    doc = Entity(name="doc", join_keys=["doc"], value_type=ValueType.INT64)
    source = FileSource(path=str(path), timestamp_field="at")
    key = Field(name="doc", dtype=Int64)
    views = [
        FeatureView(
            name=name,
            entities=[doc],
            schema=[key, field, Field(name="rank", dtype=Int64)],
            source=source,
            ttl=_DAY,
        )
        for name, field in (
            ("free", Field(name="free", dtype=Array(Float32), vector_index=True, vector_search_metric="L2")),
            ("wide", Field(name="wide", dtype=Array(Float64), vector_index=True)),
            (
                "odd",
                Field(name="wide", dtype=Array(Float64), vector_index=True, vector_search_metric="HAMMING"),
            ),
            ("none", Field(name="title", dtype=String)),
        )
    ]
    stored = OnDemandFeatureView(
        name="stored",
        sources=[views[0]],
        entities=[doc],
        schema=[Field(name="twice", dtype=Float64)],
        feature_transformation=PandasTransformation(_doubled, inspect.getsource(_doubled)),
        mode="pandas",
        write_to_online_store=True,
    )
    return [doc, *views, stored]


def _doubled(rows: pd.DataFrame) -> pd.DataFrame:
    return rows[["rank"]].astype("float64").mul(2).rename(columns={"rank": "twice"})


def _write(world: FeastWorld, view: str, vector: str) -> None:
    rows = {
        "doc": [1, 2, 3],
        vector: [[1.0, 1.0, 1.0], None, [0.5, 0.0, 0.0]],
        "rank": [10, 20, 30],
        "at": [pd.Timestamp(T)] * 3,
    }
    world.store.write_to_online_store(view, pd.DataFrame(rows))


def _read(world: FeastWorld, *features: str) -> Any:
    return world.store.get_online_features(list(features), {"doc": [1, 2, 3, 4]}).to_dict()


def test_an_on_demand_view_that_is_written_is_served(world: FeastWorld) -> None:
    rows = {"doc": [1, 2], "rank": [10, 20], "at": [pd.Timestamp(T)] * 2}
    world.store.write_to_online_store("stored", pd.DataFrame(rows))
    assert _read(world, "stored:twice")["twice"] == [20.0, 40.0, None, None]


@pytest.mark.parametrize("view", ["free", "wide"])
def test_vectors_of_any_kind_are_stored_with_their_nulls(world: FeastWorld, view: str) -> None:
    _write(world, view, view)
    served = _read(world, f"{view}:{view}", f"{view}:rank")
    # Older than their ttl, and served all the same: that rule is of our views.
    assert served["rank"] == [10, 20, 30, None]
    assert [None if not vector else list(vector) for vector in served[view]] == [
        [1.0, 1.0, 1.0],
        None,
        [0.5, 0.0, 0.0],
        None,
    ]


def test_a_time_in_the_future_is_feasts_business(world: FeastWorld) -> None:
    rows = {"doc": [8], "title": ["x"], "rank": [1], "at": [pd.Timestamp(T) + 3_000 * _DAY]}
    world.store.write_to_online_store("none", pd.DataFrame(rows))
    assert world.store.get_online_features(["none:title"], {"doc": [8]}).to_dict()["title"] == ["x"]


def _search(world: FeastWorld, view: str, query: list[float], **options: Any) -> Any:
    return world.store.retrieve_online_documents_v2([f"{view}:rank"], 5, query, **options).to_dict()


def test_ordinary_vectors_are_searched_past_their_nulls(world: FeastWorld) -> None:
    if "redis" in world.store.config.online_store.type:
        with pytest.raises(FeaturesInvalid, match=r"free: this online store has no vector search.*lookalike"):
            _search(world, "free", [0.0, 0.0, 0.0])
        return
    for view in ("free", "wide"):
        _write(world, view, view)
        answer = _search(world, view, [0.0, 0.0, 0.0], distance_metric="L2")
        distances = dict(zip(answer["doc"], answer["distance"], strict=True))
        assert distances == pytest.approx({1: 3**0.5, 3: 0.5})
        assert dict(zip(answer["doc"], answer["rank"], strict=True)) == {1: 10, 3: 30}


@pytest.mark.parametrize(
    ("view", "options", "message"),
    [
        ("none", {}, "none has no vector to search by"),
        ("odd", {}, "odd: the metric 'HAMMING' is unknown. Metrics: COSINE, L2, INNER_PRODUCT"),
        ("wide", {"distance_metric": "hamming"}, "wide: the metric 'hamming' is unknown"),
        ("wide", {"query_string": "x"}, "searches by vector alone"),
        (VIEW, {}, f"the query has 2 dimensions, {VIEW} has 128"),
    ],
)
def test_a_search_that_is_not_supported_says_why(
    world: FeastWorld, view: str, options: dict[str, Any], message: str
) -> None:
    if "redis" in world.store.config.online_store.type:
        message = "this online store has no vector search"
    feature = "n_events" if view == VIEW else "rank"
    with pytest.raises(FeaturesInvalid, match=message) as refused:
        world.store.retrieve_online_documents_v2([f"{view}:{feature}"], 5, [0.0, 1.0], **options)
    # What Feast's server answers.
    assert refused.value.http_status_code() == 422  # type: ignore[attr-defined]
    assert "Metrics" in refused.value.to_error_detail() or "metric" not in message  # type: ignore[attr-defined]


def test_the_first_form_of_the_search_is_refused_in_words(world: FeastWorld) -> None:
    with pytest.raises(FeaturesInvalid, match=r"document retrieval alone|no vector search"):
        world.store.retrieve_online_documents([1.0, 1.0, 1.0], 2, ["free:free"])


def test_a_store_can_be_closed_as_feasts_server_does_it_and_used_again(world: FeastWorld) -> None:
    async def serve() -> None:
        await world.store.initialize()
        await world.store.close()
        await world.store.close()

    asyncio.run(serve())
    assert _read(world, "none:title")["title"][3] is None


def test_feasts_server_answers_refused_input_with_422_and_shuts_down(world: FeastWorld) -> None:
    from fastapi.testclient import TestClient
    from feast.feature_server import get_app

    with TestClient(get_app(world.store), raise_server_exceptions=False) as client:
        request = {
            "features": ["none:rank"],
            "query": [1.0, 1.0],
            "top_k": 2,
            "api_version": 2,
        }
        answer = client.post("/retrieve-online-documents", json=request)
        assert (answer.status_code, "vector" in answer.text) == (422, True)
