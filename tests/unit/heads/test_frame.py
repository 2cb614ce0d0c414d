from datetime import timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from qanchor.errors import CheckpointInvalid, FeaturesInvalid, InputError, NotReady
from qanchor.events.labels import read_labels
from qanchor.heads.frame import HeadFrame, read_frame, stored_frame
from qanchor.heads.spec import FeatureSpec, vectors
from qanchor.heads.split import SplitRequest, divide
from tests.unit.heads.fakes import NOON, SCENARIO, WIDTH, World, small_world


@pytest.fixture
def world(tmp_path: Path) -> World:
    return small_world(tmp_path)


def frame_of(world: World) -> HeadFrame:
    labels = read_labels(world.site.home, SCENARIO)
    return read_frame(world.site, labels, divide(labels, SplitRequest()))


def test_the_frame_holds_every_label_with_its_part(world: World) -> None:
    labels = read_labels(world.site.home, SCENARIO)
    frame = frame_of(world)
    assert frame.table.num_rows == labels.table.num_rows
    assert {part: int(frame.rows(part).sum()) for part in ("train", "valid", "test")} == {
        "train": 144,
        "valid": 48,
        "test": 48,
    }
    truth = dict(zip(world.source.users, world.truth.tolist(), strict=True))
    assert frame.labels.tolist() == [truth[user] for user in frame.table["user_id"].to_pylist()]
    assert world.source.asked == ["user_emb_risk", "user_activity", "user_profile"]


def test_columns_of_the_matrix_follow_the_groups(world: World) -> None:
    frame = frame_of(world)
    embedding = frame.spec(("embedding",), world.site.workspace)
    assert embedding.names == tuple(f"emb_{i:03d}" for i in range(WIDTH))
    activity = frame.spec(("activity",), world.site.workspace)
    assert activity.width == 0
    assert activity.categories == {"prof_city": ("east", "west")}
    both = frame.spec(("embedding", "activity"), world.site.workspace)
    assert both.names == embedding.names + activity.names
    assert both.matrix(frame.table).shape == (240, len(both.names))
    assert list(both.views(world.site.workspace)) == ["user_emb_risk", "user_activity", "user_profile"]


def test_a_category_that_training_never_saw_is_missing() -> None:
    spec = FeatureSpec(SCENARIO, 0, (), {"prof_city": ("east", "west")})
    table = pa.table({"prof_city": ["west", "mars", None]})
    np.testing.assert_array_equal(spec.matrix(table)[:, 0], [1.0, np.nan, np.nan])


def test_absent_empty_and_broken_vectors_become_missing_rows() -> None:
    values = pa.chunked_array(
        [
            pa.array([[1.0, 2.0], None], pa.list_(pa.float32())),
            pa.array([[], [float("nan"), 1.0]], pa.list_(pa.float32())),
        ]
    )
    found = vectors(values, 2)
    assert found[0].tolist() == [1.0, 2.0]
    assert np.isnan(found[1:]).all()


def test_fixed_size_lists_with_nulls_keep_their_rows() -> None:
    array = pa.array([[1, 2], None, [3, 4]], pa.list_(pa.float32(), 2))
    found = vectors(pa.chunked_array([array]), 2)
    assert found[[0, 2]].tolist() == [[1.0, 2.0], [3.0, 4.0]]
    assert np.isnan(found[1]).all()


def test_a_vector_of_another_width_is_refused() -> None:
    with pytest.raises(InputError, match="width 3, not 2"):
        vectors(pa.chunked_array([pa.array([[1.0, 2.0, 3.0]])]), 2)


def test_a_field_that_is_not_served_names_the_command(world: World) -> None:
    del world.source.columns["act_bill_count_7d"]
    frame = frame_of(world)
    with pytest.raises(NotReady, match=r"'act_bill_count_7d'.*feast apply"):
        frame.spec(("activity",), world.site.workspace).matrix(frame.table)


def test_vectors_of_two_models_are_refused(world: World) -> None:
    world.source.columns["user_emb_risk__model_version"][3] = "m2"
    with pytest.raises(NotReady, match="2 models: m1, m2"):
        frame_of(world)


def test_category_values_that_training_never_saw_are_counted() -> None:
    spec = FeatureSpec(SCENARIO, 0, (), {"prof_city": ("east", "west"), "prof_job": ("cook",)})
    table = pa.table({"prof_city": ["west", "mars", "mars"], "prof_job": [None, "cook", "cook"]})
    assert spec.unseen(table) == {"prof_city": {"mars": 2}}


def test_a_vector_that_holds_nan_is_refused_with_its_row_and_user(world: World) -> None:
    world.source.columns["emb_risk"][7] = [float("nan")] * WIDTH
    with pytest.raises(
        FeaturesInvalid, match=r"row 8, column emb_risk: the vector of user 'u0007' holds NaN"
    ):
        frame_of(world)


def test_a_vector_that_has_read_an_event_at_its_labels_time_is_refused(world: World) -> None:
    column = "user_emb_risk__last_event_ts"
    world.source.columns[column] = [NOON - timedelta(microseconds=1)] * 239 + [None]
    assert frame_of(world).table.num_rows == 240
    world.source.columns[column][11] = NOON
    with pytest.raises(FeaturesInvalid, match=r"row 12: the vector of user 'u0011' has read an event"):
        frame_of(world)


def test_a_stored_frame_comes_back_as_it_was_and_notices_an_edit(world: World, tmp_path: Path) -> None:
    frame, path = frame_of(world), tmp_path / "frame.parquet"
    found = frame.write(path)
    again = stored_frame(SCENARIO, path, found)
    assert again.table.equals(frame.table)
    np.testing.assert_array_equal(again.part, frame.part)
    assert (again.width, again.model_version) == (frame.width, frame.model_version)
    assert frame.write(tmp_path / "second.parquet") == found
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(CheckpointInvalid, match=r"frame.parquet was changed.*head train --scenario risk"):
        stored_frame(SCENARIO, path, found)
    path.unlink()
    with pytest.raises(CheckpointInvalid, match="cannot be read"):
        stored_frame(SCENARIO, path, found)
