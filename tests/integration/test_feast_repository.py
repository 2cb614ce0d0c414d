"""FeatureRepository on real Feast: definitions, materialization, serving.

Each fault that was found in Feast 0.67 has a letter; its test would catch its return.
"""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from qanchor.errors import NotReady, StateError
from qanchor.home import Home
from qanchor.storage.features import FeatureRepository
from qanchor.storage.parts import embedding_schema
from qanchor.workspace import load_workspace
from tests.integration.conftest import small_workspace
from tests.unit.storage.rows import VIEW, embedding_rows

pytestmark = [pytest.mark.integration]
_T = datetime(2026, 3, 1, tzinfo=UTC)
_DAY = timedelta(days=1)
_ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _no_parts_remain(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    if "features" in request.fixturenames:
        repository: FeatureRepository = request.getfixturevalue("features")
        for view in repository.views:
            repository.remove_parts(view, set())


def test_apply_registers_a_view_for_each_scenario(features: FeatureRepository) -> None:
    views = {view.name: view for view in features.store.list_feature_views()}
    assert set(views) == set(features.views)
    vector = next(field for field in views[VIEW].features if field.vector_index)
    assert (vector.name, vector.vector_length, vector.vector_search_metric) == ("emb_fraud", 128, "COSINE")
    assert views[VIEW].ttl == 2 * _DAY
    services = {service.name for service in features.store.list_feature_services()}
    assert services == {"risk_v1", "marketing_v1"}


def test_a_service_may_mix_the_views_of_its_domain(features: FeatureRepository) -> None:
    service = features.store.get_feature_service("risk_v1")
    answer = features.store.get_online_features(service, [{"user_id": "nobody"}]).to_dict()
    assert {"emb_fraud", "emb_money", "act_pay_count_7d", "prof_tier"} <= set(answer)


def test_every_service_and_every_single_field_can_be_joined(features: FeatureRepository) -> None:
    features.write_part(VIEW, embedding_rows([("b", _T, _T), ("a", _T, _T)]), "p")
    labels = pd.DataFrame({"user_id": ["a", "x", "a"], "event_timestamp": [_T] * 3})
    store = features.store
    for service in store.list_feature_services():
        frame = store.get_historical_features(labels, store.get_feature_service(service.name)).to_df()
        assert len(frame) == 3
        if "emb_fraud" in frame:
            assert [vector is None or vector[0] for vector in frame["emb_fraud"]] == [1.0, True, 1.0]
    expected = {"emb_fraud": [1.0] * 128, "model_version": "m1", "n_events": 1}
    for view in store.list_feature_views():
        for name in (field.name for field in view.features):
            column = store.get_historical_features(labels, [f"{view.name}:{name}"]).to_arrow()[name]
            value = expected.get(name) if view.name == VIEW else None
            assert column.to_pylist() == [value, None, value], name


@pytest.mark.parametrize("name", ["online_retail", "uci_credit_default", "berka_loans"])
def test_yaml_files_alone_make_a_repository(name: str, tmp_path: Path) -> None:
    workspace = load_workspace(_ROOT / "examples" / name)
    repository = FeatureRepository(workspace, Home(tmp_path))
    assert set(repository.apply()) == set(repository.views)
    assert repository.materialize(repository.views, _T) == dict.fromkeys(repository.views, 0)
    repository.close()


def test_applying_again_drops_what_is_no_longer_defined(tmp_path: Path) -> None:
    workspace = small_workspace()
    first = FeatureRepository(workspace, Home(tmp_path))
    first.apply()
    first.close()
    fewer = {name: spec for name, spec in workspace.scenarios.items() if name == "fraud"}
    second = FeatureRepository(
        type(workspace)(workspace.repo, 90, workspace.modalities, fewer), Home(tmp_path)
    )
    second.apply()
    assert {view.name for view in second.store.list_feature_views()} == set(second.views)
    assert {service.name for service in second.store.list_feature_services()} == {"risk_v1"}
    second.close()


def test_after_teardown_a_repository_can_be_applied_again(tmp_path: Path) -> None:
    # Feast leaves the versions of a deleted project's views, and could then never apply again.
    repository = FeatureRepository(small_workspace(), Home(tmp_path))
    for _ in range(3):
        repository.apply()
        assert repository.store.get_feature_view(VIEW).current_version_number in {None, 0}
        repository.store.teardown()
        repository.close()
    repository.apply()
    assert {view.name for view in repository.store.list_feature_views()} == set(repository.views)
    repository.close()


def test_a_new_fingerprint_makes_a_new_version_of_the_view(features: FeatureRepository) -> None:
    before = features.store.get_feature_view("user_emb_promo").current_version_number or 0
    features.set_fingerprint("promo", "space-2")
    features.apply()
    view = features.store.get_feature_view("user_emb_promo")
    assert next(f for f in view.features if f.vector_index).tags == {"fingerprint": "space-2"}
    assert view.current_version_number == before + 1


def test_materialize_serves_the_newest_row_of_each_user(features: FeatureRepository) -> None:
    rows = embedding_rows(
        [("a", _T, _T), ("a", _T + _DAY, _T + _DAY), ("b", _T, _T), ("c", _T + 9 * _DAY, _T)]
    )
    features.write_part(VIEW, rows, "p")
    assert features.materialize([VIEW, "user_activity"], _T + _DAY) == {VIEW: 2, "user_activity": 0}
    wanted = [f"{VIEW}:emb_fraud", f"{VIEW}:model_version", f"{VIEW}:last_event_ts"]
    served = features.online(["b", "nobody", "a", "c", "a"], wanted, at=_T + _DAY)
    assert served["user_id"].to_pylist() == ["b", "nobody", "a", "c", "a"]
    assert served[f"{VIEW}__model_version"].to_pylist() == ["m2", None, "m1", None, "m1"]
    assert served[f"{VIEW}__last_event_ts"].to_pylist() == [_T, None, None, None, None]
    assert served.schema.field("emb_fraud").type == pa.list_(pa.float32(), 128)
    assert served["emb_fraud"].to_pylist()[0] == [2.0] * 128


def test_what_is_older_than_its_time_to_live_is_not_served(features: FeatureRepository) -> None:
    # Fault M: Feast applies ttl offline only.
    features.write_part(VIEW, embedding_rows([("m", _T, _T)]), "m")
    features.materialize([VIEW], _T)
    for at, expected in ((_T + 2 * _DAY, 0), (_T + 2 * _DAY + timedelta(seconds=1), None)):
        assert features.online(["m"], [f"{VIEW}:n_events"], at=at)[f"{VIEW}__n_events"].to_pylist() == [
            expected
        ]
    assert features.online(["m"], [f"{VIEW}:n_events"])[f"{VIEW}__n_events"].null_count == 1


def test_serving_no_users_gives_the_columns(features: FeatureRepository) -> None:
    served = features.online([], [f"{VIEW}:emb_fraud", "user_profile:prof_tier"])
    assert (len(served), served.column_names) == (0, ["user_id", "emb_fraud", "prof_tier"])


def test_a_repository_that_was_never_applied_names_the_remedy(tmp_path: Path) -> None:
    repository = FeatureRepository(small_workspace(), Home(tmp_path))
    repository.write_part(VIEW, embedding_rows([("a", _T, _T)]), "p")
    with pytest.raises(NotReady, match="feast apply"):
        repository.online(["a"], [f"{VIEW}:n_events"])
    with pytest.raises(NotReady, match="feast apply"):
        repository.materialize([VIEW], _T)
    repository.close()


def test_an_engine_that_writes_nothing_is_found_out(
    features: FeatureRepository, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Fault B: Feast's Ray engine writes 0 rows of a view with a vector index and reports success.
    from qanchor.storage.feast_ext.online_store import GuardedSqliteOnlineStore

    features.write_part("user_emb_money", embedding_rows([("a", _T, _T)], scenario="money"), "p")
    monkeypatch.setattr(GuardedSqliteOnlineStore, "write_packed", lambda *_: None)
    with pytest.raises(StateError, match="user_emb_money has 1 users offline; of 1 probed, 1"):
        features.materialize(["user_emb_money"], _T)


def test_rows_that_are_served_older_than_they_are_are_found_out(
    features: FeatureRepository, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Fault B again: that a user is served something says nothing of this run.
    from qanchor.storage.feast_ext.online_store import GuardedSqliteOnlineStore

    users = ["served1", "served2"]
    for day in (0, 1):
        rows = [(user, _T + day * _DAY, _T) for user in users]
        features.write_part("user_emb_money", embedding_rows(rows, scenario="money"), f"d{day}")
        if day:
            monkeypatch.setattr(GuardedSqliteOnlineStore, "write_packed", lambda *_: None)
            with pytest.raises(StateError, match="2 users offline; of 2 probed, 2 are not served"):
                features.materialize(["user_emb_money"], _T + day * _DAY)
        else:
            features.materialize(["user_emb_money"], _T)


def test_rows_of_many_parts_and_batches_all_arrive(
    features: FeatureRepository, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Fault C: Feast's local engine keeps the first chunk of a chunked table only.
    engine = features.store._get_provider().batch_engine
    monkeypatch.setattr(engine, "_batch_rows", 7)
    users = [f"c{i:03d}" for i in range(60)]
    for part in range(3):
        mine = [(user, _T, _T) for user in users[part::3]]
        features.write_part("user_emb_money", embedding_rows(mine, scenario="money"), f"c{part}")
    features.materialize(["user_emb_money"], _T)
    served = features.online(users, ["user_emb_money:model_version"], at=_T)
    assert served["user_emb_money__model_version"].null_count == 0
    assert engine.written["user_emb_money"] >= len(users)


def test_reads_go_on_while_a_view_is_materialized(
    features: FeatureRepository, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Fault F: with Feast's file registry reads fail as long as the view's state is MATERIALIZING.
    from qanchor.storage.feast_ext.online_store import GuardedSqliteOnlineStore

    features.write_part("user_emb_promo", embedding_rows([("f", _T, _T)], scenario="promo"), "f1")
    features.materialize(["user_emb_promo"], _T)
    reader = FeatureRepository(features.workspace, features.home)
    seen: list[Any] = []
    write = GuardedSqliteOnlineStore.write_packed

    def read_meanwhile(self: Any, config: Any, view: Any, packed: Any) -> None:
        seen.extend(reader.online(["f"], ["user_emb_promo:n_events"], at=_T).to_pylist())
        write(self, config, view, packed)

    monkeypatch.setattr(GuardedSqliteOnlineStore, "write_packed", read_meanwhile)
    features.materialize(["user_emb_promo"], _T)
    reader.close()
    assert seen == [{"user_id": "f", "user_emb_promo__n_events": 0}]


def _feast_frame(features: FeatureRepository, labels: pa.Table, refs: list[str], **options: Any) -> pa.Table:
    entities = labels.to_pandas().rename(columns={"as_of": "event_timestamp"})
    job = features.store.get_historical_features(entities, refs, full_feature_names=True, **options)
    frame: pa.Table = job.to_arrow()
    return frame.sort_by("label")


@pytest.fixture
def history(features: FeatureRepository) -> pa.Table:
    """Random rows of two views in several parts, with ties, late creation and expiry; and labels on them."""
    rng = np.random.default_rng(7)
    for scenario in ("fraud", "money"):
        for part in range(3):
            events = [_T + timedelta(hours=int(h)) for h in rng.integers(0, 300, 150)]
            created = [
                event + timedelta(hours=int(h))
                for event, h in zip(events, rng.integers(0, 40, 150), strict=True)
            ]
            users = [f"h{u}" for u in rng.integers(0, 30, 150)]
            rows = embedding_rows(list(zip(users, events, created, strict=True)), scenario=scenario)
            # No two rows agree in user, time and creation, or any of them were right.
            keys = ["user_id", "event_timestamp", "created"]
            first = (
                rows.append_column("row", pa.array(range(len(rows))))
                .group_by(keys)
                .aggregate([("row", "min")])
            )
            rows = rows.take(first["row_min"].combine_chunks())
            features.write_part(f"user_emb_{scenario}", rows, f"h{part}")
    return pa.table(
        {
            "user_id": [f"h{u}" for u in rng.integers(0, 33, 400)],
            "as_of": pa.array(
                [_T + timedelta(hours=int(h)) for h in rng.integers(-20, 420, 400)], pa.timestamp("us", "UTC")
            ),
            "label": range(400),
        }
    )


def test_training_frames_equal_those_of_feast(
    features: FeatureRepository, history: pa.Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    from qanchor.storage.feast_ext import offline_store

    # Fault E: every label row comes back. Fault K: a row that was created after the label is not joined.
    views = ["user_emb_fraud", "user_emb_money"]
    refs = [f"{view}:{name}" for view in views for name in ("n_events", "model_version", f"emb_{view[9:]}")]
    ours = features.training_frame(history, views)
    # As if no view lay in part files: Feast's own join then.
    monkeypatch.setattr(offline_store, "view_join", lambda *_: None)
    feasts = _feast_frame(features, history, refs, filter_by_created_timestamp=True)
    assert ours["label"].equals(history["label"])
    assert feasts["label"].to_pylist() == history["label"].to_pylist()
    for view in views:
        for name in ("n_events", "model_version"):
            assert ours[f"{view}__{name}"].to_pylist() == feasts[f"{view}__{name}"].to_pylist()
        vector = f"emb_{view[9:]}"
        assert ours[vector].to_pylist() == feasts[f"{view}__{vector}"].to_pylist()
        assert 0 < ours[vector].null_count < len(history)


def test_feast_itself_joins_what_was_known_then_unasked(
    features: FeatureRepository, history: pa.Table
) -> None:
    # Fault K: without the flag Feast joins rows that were created after the label's time.
    refs = [f"{VIEW}:n_events"]
    asked = _feast_frame(features, history, refs, filter_by_created_timestamp=True)
    assert _feast_frame(features, history, refs).equals(asked)


def test_views_without_a_row_can_be_joined_by_feast(features: FeatureRepository) -> None:
    labels = pa.table(
        {"user_id": ["a", "b"], "as_of": pa.array([_T, _T], pa.timestamp("us", "UTC")), "label": [0, 1]}
    )
    frame = _feast_frame(features, labels, ["user_activity:act_pay_count_7d", "user_profile:prof_tier"])
    assert frame["user_activity__act_pay_count_7d"].null_count == 2


def test_an_incremental_run_finds_what_arrived_late(tmp_path: Path) -> None:
    # Fault J: Feast looks at event times from the last run on, and never again at what lies before.
    repository = FeatureRepository(small_workspace(), Home(tmp_path))
    repository.apply()
    repository.write_part(VIEW, embedding_rows([("a", _T, _T)]), "first")
    repository.store.materialize(_T - _DAY, _T, feature_views=[VIEW])
    repository.write_part(VIEW, embedding_rows([("late", _T - _DAY, _T + timedelta(hours=1))]), "second")
    repository.store.materialize_incremental(_T + _DAY, feature_views=[VIEW])
    served = repository.online(["a", "late"], [f"{VIEW}:n_events"], at=_T)
    repository.close()
    assert served[f"{VIEW}__n_events"].null_count == 0


def test_the_view_schema_and_feasts_agree(features: FeatureRepository) -> None:
    from qanchor.storage.feast_ext.views import part_schema

    view = features.store.get_feature_view(VIEW)
    assert part_schema(view).equals(embedding_schema("fraud"))
