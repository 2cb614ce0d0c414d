"""Heads on the real feature repository: point in time, from both stores, with planted leaks."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from numpy.typing import NDArray

from qanchor.heads.score import ScoreRequest, publish_scores, score_users
from qanchor.heads.train import train_head
from qanchor.names import ACTIVITY_VIEW, EMBEDDING_WIDTH, PROFILE_VIEW, embedding_view
from qanchor.progress import Silent
from qanchor.storage.features import FeatureRepository
from qanchor.workspace import Workspace
from tests.unit.heads.fakes import FAST, NOON, SCENARIO, World, add_manifest, small_world

pytestmark = pytest.mark.integration


@pytest.fixture
def world(tmp_path: Path) -> Iterator[tuple[World, FeatureRepository]]:
    made = small_world(tmp_path)
    add_manifest(made)
    repository = FeatureRepository(made.site.workspace, made.site.home)
    repository.set_fingerprint(SCENARIO, "f" * 32)
    write(made, repository, "past", -1, 0.15)
    made.site = made.site.with_parts(features=repository)
    yield made, repository
    repository.close()


def write(
    world: World,
    repository: FeatureRepository,
    part: str,
    days: float,
    strength: float,
    created: float | None = None,
) -> None:
    """Rows of all three views, `days` from the cut-off, whose first number carries the signal.

    They are created at that moment too, or `created` days from the cut-off.
    """
    random, users = np.random.default_rng(5), world.source.users
    signal = strength * world.truth.astype(np.float64)
    moments, known = (
        pa.array([NOON + timedelta(days=when)] * len(users), pa.timestamp("us", tz="UTC"))
        for when in (days, days if created is None else created)
    )
    vectors = random.normal(scale=0.1, size=(len(users), EMBEDDING_WIDTH)).astype(np.float32)
    vectors[:, 0] += signal
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    keys = {"user_id": pa.array(users), "event_timestamp": moments, "created": known}
    embedding = {
        f"emb_{SCENARIO}": pa.array(vectors.tolist(), pa.list_(pa.float32())),
        "model_version": pa.array(["m1"] * len(users)),
        "n_events": pa.array([3] * len(users)),
        "last_event_ts": pc.subtract(moments, pa.scalar(timedelta(hours=1))),
    }
    repository.write_part(embedding_view(SCENARIO), pa.table(keys | embedding), part)
    activity = numbers(world.site.workspace, random, len(users), signal)
    repository.write_part(ACTIVITY_VIEW, pa.table(keys | activity), part)
    profile = {
        "prof_city": pa.array(["east", "west"] * (len(users) // 2)),
        "prof_limit": random.normal(size=len(users)),
    }
    repository.write_part(PROFILE_VIEW, pa.table(keys | profile), part)


def numbers(
    workspace: Workspace, random: np.random.Generator, rows: int, signal: NDArray[np.float64]
) -> dict[str, NDArray[np.float64]]:
    columns = {name: random.normal(size=rows) for name in workspace.activity_columns}
    columns[next(iter(columns))] += signal
    return columns


def test_rows_after_the_cutoff_change_nothing(world: tuple[World, FeatureRepository]) -> None:
    made, repository = world
    before = train_head(made.site, SCENARIO, FAST, Silent()).card
    # A perfect predictor, one day after every label's time.
    write(made, repository, "leak", 1, 100.0)
    # Another one of the label's own past, which nobody knew before the day after.
    write(made, repository, "written_later", -0.5, 100.0, created=1)
    after = train_head(made.site, SCENARIO, FAST, Silent()).card
    assert after.metrics == before.metrics
    assert after.frame_hash == before.frame_hash
    assert after.booster_hashes == before.booster_hashes
    assert before.metrics["head"]["auc"] < 0.99


def test_both_stores_score_alike_once_materialized(world: tuple[World, FeatureRepository]) -> None:
    made, repository = world
    train_head(made.site, SCENARIO, FAST, Silent())
    repository.apply()
    repository.materialize([embedding_view(SCENARIO), ACTIVITY_VIEW, PROFILE_VIEW], NOON)
    users = [*made.source.users[:20], "stranger"]
    offline = score_users(made.site, SCENARIO, ScoreRequest(users, "offline", NOON))
    online = score_users(made.site, SCENARIO, ScoreRequest(users, "online", NOON))
    np.testing.assert_allclose(online.table["score"].to_numpy(), offline.table["score"].to_numpy(), atol=1e-6)
    assert (online.without_embedding, offline.without_embedding) == (1, 1)
    assert publish_scores(made.site, SCENARIO, offline) == len(users)
    wanted = [f"user_score_{SCENARIO}:score_{SCENARIO}", f"user_score_{SCENARIO}:score_{SCENARIO}_head"]
    served = repository.online(users, wanted, at=NOON)
    assert served[f"score_{SCENARIO}"].to_pylist() == offline.table["score"].to_pylist()
    assert set(served[f"score_{SCENARIO}_head"].to_pylist()) == {offline.head}
    # Scores of today are no features of a label of yesterday, even where their own features were.
    asked = pa.table({"user_id": users, "as_of": pa.array([NOON] * 21, pa.timestamp("us", tz="UTC"))})
    assert repository.training_frame(asked, [f"user_score_{SCENARIO}"])[f"score_{SCENARIO}"].null_count == 21
