from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from qanchor.errors import FeaturesInvalid, FingerprintMismatch, NotReady
from qanchor.heads.score import ScoreRequest, load_head, score_users
from qanchor.heads.train import train_head
from qanchor.progress import Silent
from tests.unit.heads.fakes import FAST, SCENARIO, World, add_manifest, small_world


@pytest.fixture
def world(tmp_path: Path) -> World:
    made = small_world(tmp_path)
    add_manifest(made)
    train_head(made.site, SCENARIO, FAST, Silent())
    made.source.asked.clear()
    return made


def test_online_and_offline_stores_give_the_same_scores_in_the_order_asked(world: World) -> None:
    users = ["u0007", "u0003", "u0100"]
    online = score_users(world.site, SCENARIO, ScoreRequest(users))
    offline = score_users(world.site, SCENARIO, ScoreRequest(users, "offline"))
    assert online.table["user_id"].to_pylist() == users
    assert online.table.equals(offline.table)
    assert (online.store, offline.store) == ("online", "offline")
    assert "user_emb_risk:emb_risk" in world.source.asked


def test_a_user_without_history_is_scored_and_counted(world: World) -> None:
    scored = score_users(world.site, SCENARIO, ScoreRequest(["u0001", "stranger"]))
    assert scored.without_embedding == 1
    assert np.isfinite(scored.table["score"].to_numpy()).all()


def test_only_users_without_vectors_are_an_error(world: World) -> None:
    with pytest.raises(NotReady, match="no fresh vector of risk for these 1 users"):
        score_users(world.site, SCENARIO, ScoreRequest(["stranger"]))


def test_everybody_is_who_has_a_vector_offline(world: World) -> None:
    folder = world.site.home.view("user_emb_risk")
    with pytest.raises(NotReady, match="no embeddings"):
        score_users(world.site, SCENARIO)
    folder.mkdir(parents=True)
    pq.write_table(pa.table({"user_id": ["u0002", "u0001", "u0002"]}), folder / "part.parquet")
    assert score_users(world.site, SCENARIO).table["user_id"].to_pylist() == ["u0001", "u0002"]


def test_vectors_of_another_space_are_refused_with_the_remedy(world: World) -> None:
    world.source.fingerprints[SCENARIO] = "e" * 32
    with pytest.raises(FingerprintMismatch, match="head train --scenario risk"):
        score_users(world.site, SCENARIO, ScoreRequest(["u0001"]))
    world.source.fingerprints[SCENARIO] = "f" * 32
    world.source.columns["user_emb_risk__model_version"][1] = "m2"
    with pytest.raises(FingerprintMismatch, match="written by model m2"):
        score_users(world.site, SCENARIO, ScoreRequest(["u0001"]))


def test_a_category_that_training_did_not_have_is_refused_or_scored_as_missing(world: World) -> None:
    world.source.columns["prof_city"][3] = "mars"
    with pytest.raises(
        FeaturesInvalid, match=r"column prof_city holds 1 value\(s\).*1 row\(s\): 'mars'.*--unseen missing"
    ):
        score_users(world.site, SCENARIO, ScoreRequest(["u0002", "u0003"]))
    found = score_users(world.site, SCENARIO, ScoreRequest(["u0003"], unseen="missing"))
    world.source.columns["prof_city"][3] = None
    assert found.table.equals(score_users(world.site, SCENARIO, ScoreRequest(["u0003"])).table)


def test_many_users_are_scored_in_pieces_as_they_would_be_at_once(world: World) -> None:
    head = load_head(world.site, SCENARIO)
    users = world.source.users * 90
    table = world.source.training_frame(pa.table({"user_id": users}), [])
    assert table.num_rows > 2 * 10_000
    np.testing.assert_array_equal(head.raw(table), head.boosters.raw(head.card.spec.matrix(table)))


def test_a_broken_vector_names_its_user(world: World) -> None:
    world.source.columns["emb_risk"][5] = [float("nan")] * 8
    with pytest.raises(
        FeaturesInvalid, match=r"row 2, column emb_risk: the vector of user 'u0005' holds NaN"
    ):
        score_users(world.site, SCENARIO, ScoreRequest(["u0004", "u0005"]))
