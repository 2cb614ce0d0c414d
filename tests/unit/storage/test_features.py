"""FeatureRepository without Feast: parts, fingerprints and training frames never import it."""

import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pytest

from qanchor.errors import FeaturesInvalid, UnknownScenario
from qanchor.home import Home
from qanchor.storage.features import FeatureRepository
from qanchor.storage.parts import ensure_part, view_schemas
from qanchor.workspace import FieldSpec, ModalitySpec, ScenarioSpec, Workspace
from tests.unit.storage.rows import VIEW, embedding_rows

_T = datetime(2026, 5, 1, tzinfo=UTC)
_PAY = ModalitySpec(text="{shop}", fields={"shop": FieldSpec(type="text")})
_SCENARIOS = {
    "fraud": ScenarioSpec(domain="risk", query="Is it fraud?", ttl_days=2),
    "money": ScenarioSpec(domain="risk", query="Is money late?", ttl_days=30),
}
_WORKSPACE = Workspace(Path("/nowhere"), 90, {"pay": _PAY}, _SCENARIOS)


@pytest.fixture
def repository(tmp_path: Path) -> FeatureRepository:
    home = Home(tmp_path)
    for view, schema in view_schemas(_WORKSPACE).items():
        ensure_part(home.view(view), schema)
    return FeatureRepository(_WORKSPACE, home)


def _labels(*labels: tuple[str, datetime]) -> pa.Table:
    users, moments = zip(*labels, strict=True)
    columns = {"user_id": users, "as_of": pa.array(moments, pa.timestamp("us", "UTC"))}
    return pa.table({**columns, "label": pa.array(range(len(labels)), pa.int8())})


def test_importing_the_repository_does_not_import_feast() -> None:
    code = "import sys, qanchor.storage.features; sys.exit('feast' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_frame_keeps_every_label_in_order_with_float32_vectors(repository: FeatureRepository) -> None:
    repository.write_part(VIEW, embedding_rows([("a", _T, _T)]), "p")
    labels = _labels(("x", _T), ("a", _T), ("a", _T - timedelta(days=1)))
    frame = repository.training_frame(labels, [VIEW, "user_emb_money", "user_activity"])
    assert frame.select(labels.column_names).equals(labels)
    assert frame["emb_fraud"].is_null().to_pylist() == [True, False, True]
    assert frame.schema.field("emb_fraud").type == pa.list_(pa.float32(), 128)
    assert frame["emb_money"].null_count == 3
    assert frame["user_emb_fraud__model_version"].to_pylist() == [None, "m0", None]
    assert "act_pay_count_7d" in frame.column_names
    assert len(set(frame.column_names)) == len(frame.column_names)


def test_each_view_has_the_time_to_live_of_its_scenario(repository: FeatureRepository) -> None:
    repository.write_part(VIEW, embedding_rows([("a", _T, _T)]), "p")
    repository.write_part("user_emb_money", embedding_rows([("a", _T, _T)], scenario="money"), "p")
    labels = _labels(("a", _T + timedelta(days=3)))
    frame = repository.training_frame(labels, [VIEW, "user_emb_money"])
    assert frame["emb_fraud"].null_count == 1
    assert frame["emb_money"].null_count == 0


def test_removed_parts_are_no_longer_joined(repository: FeatureRepository) -> None:
    repository.write_part(VIEW, embedding_rows([("a", _T, _T)]), "old")
    repository.remove_parts(VIEW, set())
    assert repository.training_frame(_labels(("a", _T)), [VIEW])["emb_fraud"].null_count == 1


def test_label_times_of_other_units_and_zones_are_the_same_moments(repository: FeatureRepository) -> None:
    repository.write_part(VIEW, embedding_rows([("a", _T, _T)]), "p")
    for kind in (pa.timestamp("ns"), pa.timestamp("s", "UTC"), pa.timestamp("ms", "Asia/Tokyo")):
        labels = _labels(("a", _T), ("a", _T - timedelta(seconds=1)))
        labels = labels.set_column(1, "as_of", labels["as_of"].cast(kind))
        assert repository.training_frame(labels, [VIEW])["emb_fraud"].null_count == 1


def test_an_unknown_view_or_feature_is_named(repository: FeatureRepository) -> None:
    with pytest.raises(FeaturesInvalid, match="user_emb_nope"):
        repository.training_frame(_labels(("a", _T)), ["user_emb_nope"])
    with pytest.raises(FeaturesInvalid, match="nope"):
        repository.online(["a"], [f"{VIEW}:nope"])
    with pytest.raises(FeaturesInvalid, match="user_id"):
        repository.online(["a"], [f"{VIEW}:user_id"])


def test_rows_that_do_not_hold_leave_no_part(repository: FeatureRepository, tmp_path: Path) -> None:
    with pytest.raises(FeaturesInvalid):
        repository.write_part(VIEW, embedding_rows([("a", _T, _T)], [[float("nan")] * 128]), "p")
    assert [path.stem for path in (tmp_path / "features" / VIEW).iterdir()] == ["empty"]


def test_a_fingerprint_outlives_the_object_and_others(repository: FeatureRepository, tmp_path: Path) -> None:
    assert repository.fingerprint("fraud") is None
    repository.set_fingerprint("fraud", "f1")
    repository.set_fingerprint("money", "m1")
    repository.set_fingerprint("fraud", "f2")
    again = FeatureRepository(_WORKSPACE, Home(tmp_path))
    assert (again.fingerprint("fraud"), again.fingerprint("money")) == ("f2", "m1")


def test_a_fingerprint_of_no_scenario_is_refused(repository: FeatureRepository) -> None:
    with pytest.raises(UnknownScenario):
        repository.set_fingerprint("nope", "x")
    with pytest.raises(UnknownScenario):
        repository.fingerprint("nope")


def test_a_frame_says_of_which_moment_its_features_are(repository: FeatureRepository) -> None:
    repository.write_part(VIEW, embedding_rows([("a", _T, _T)]), "p")
    frame = repository.training_frame(_labels(("a", _T + timedelta(hours=5)), ("x", _T)), [VIEW], times=True)
    assert frame[f"{VIEW}__event_timestamp"].to_pylist() == [_T, None]
