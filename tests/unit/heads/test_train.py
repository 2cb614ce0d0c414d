import json
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn import metrics as reference

from qanchor.errors import (
    CheckpointInvalid,
    FingerprintMismatch,
    InputError,
    LabelsInvalid,
    NotReady,
    UnknownScenario,
)
from qanchor.heads.card import CARD_FILE, SCORES_FILE, booster_file, read_scores
from qanchor.heads.score import load_head
from qanchor.heads.train import TrainOptions, train_head
from qanchor.metrics import psi
from qanchor.progress import Silent
from qanchor.registry.versions import active_head
from tests.unit.heads.fakes import FAST, SCENARIO, World, add_manifest, small_world


def folder(world: World) -> Path:
    return world.site.home.root / active_head(world.site.engine, SCENARIO).path


def stored_scores(world: World) -> pa.Table:
    return read_scores(folder(world), load_head(world.site, SCENARIO).card)


def test_a_head_is_measured_stored_and_registered(world: World) -> None:
    card = train_head(world.site, SCENARIO, FAST, Silent()).card
    assert set(card.metrics) == {"head", "probe", "aggregates"}
    assert card.metrics["head"]["auc"] > 0.75
    assert card.metrics["head"]["auc_low"] <= card.metrics["head"]["auc"] <= card.metrics["head"]["auc_high"]
    assert card.metrics["probe"]["auc"] > card.metrics["aggregates"]["auc"]
    assert (card.test_fold, card.rows["test"]) == (4, 48)
    row = active_head(world.site.engine, SCENARIO)
    assert (row.version, row.fingerprint) == (card.version, "f" * 32)
    assert row.metrics["test"]["head"]["auc"] == card.metrics["head"]["auc"]
    assert sorted(p.name for p in folder(world).iterdir()) == [
        "booster_0.txt",
        "card.json",
        "frame.parquet",
        "scores.parquet",
    ]
    assert [p.name for p in folder(world).parent.iterdir()] == [card.version]


def test_the_stored_head_scores_exactly_as_the_fitted_one_did(world: World) -> None:
    train_head(world.site, SCENARIO, FAST, Silent())
    head, scores = load_head(world.site, SCENARIO), stored_scores(world)
    table = world.source.training_frame(scores.select(["user_id"]), [])
    np.testing.assert_array_equal(head.score(table), scores["head"].to_numpy())


def champion(world: World) -> str:
    return active_head(world.site.engine, SCENARIO).version


def test_a_second_head_is_a_challenger_until_it_is_promoted(world: World) -> None:
    first = train_head(world.site, SCENARIO, FAST, Silent())
    second = train_head(world.site, SCENARIO, FAST, Silent())
    assert (first.champion, second.champion) == (True, False)
    assert champion(world) == first.card.version != second.card.version
    assert first.card.metrics == second.card.metrics
    third = train_head(world.site, SCENARIO, replace(FAST, promote=True), Silent())
    assert champion(world) == third.card.version
    assert third.champion


def test_a_head_of_new_vectors_takes_over_from_one_that_cannot_score_them(world: World) -> None:
    train_head(world.site, SCENARIO, FAST, Silent())
    add_manifest(world, fingerprint="e" * 32)
    world.source.fingerprints[SCENARIO] = "e" * 32
    second = train_head(world.site, SCENARIO, FAST, Silent())
    assert second.champion
    assert champion(world) == second.card.version


def test_a_head_on_aggregates_alone_uses_no_vector(world: World) -> None:
    options = TrainOptions(("activity",), fit=FAST.fit)
    card = train_head(world.site, SCENARIO, options, Silent()).card
    assert (card.width, card.groups) == (0, ("activity",))


def test_rows_without_history_are_counted_and_scored(world: World) -> None:
    for place in range(0, 240, 10):
        world.source.columns["emb_risk"][place] = None
        world.source.columns["user_emb_risk__model_version"][place] = None
    card = train_head(world.site, SCENARIO, FAST, Silent()).card
    assert card.without_embedding == 24
    assert stored_scores(world)["head"].null_count == 0


def test_missing_steps_are_named(tmp_path: Path) -> None:
    world = small_world(tmp_path)
    with pytest.raises(UnknownScenario):
        train_head(world.site, "nonsense", FAST, Silent())
    with pytest.raises(NotReady, match="qanchor-cli backfill --scenario risk"):
        train_head(world.site, SCENARIO, FAST, Silent())
    add_manifest(world)
    (world.site.home.labels / "risk.parquet").unlink()
    with pytest.raises(NotReady, match="qanchor-cli labels load risk"):
        train_head(world.site, SCENARIO, FAST, Silent())


def test_vectors_or_aggregates_absent_everywhere_name_the_backfill(world: World) -> None:
    kept = list(world.source.columns["emb_risk"])
    world.source.columns["emb_risk"] = [None] * 240
    with pytest.raises(NotReady, match="no label of risk has an embedding as of its time"):
        train_head(world.site, SCENARIO, FAST, Silent())
    world.source.columns["emb_risk"] = kept
    for name in world.site.workspace.activity_columns:
        world.source.columns[name] = [None] * 240
    with pytest.raises(NotReady, match="no label of risk has activity features"):
        train_head(world.site, SCENARIO, FAST, Silent())
    card = train_head(world.site, SCENARIO, TrainOptions(("embedding",), fit=FAST.fit), Silent()).card
    assert "probe" in card.metrics


def test_a_view_of_another_fingerprint_is_refused(world: World) -> None:
    world.source.fingerprints[SCENARIO] = "e" * 32
    with pytest.raises(FingerprintMismatch, match=r"eeeeeeeeeeee.*expected is ffffffffffff.*backfill"):
        train_head(world.site, SCENARIO, FAST, Silent())
    world.source.fingerprints.clear()
    with pytest.raises(FingerprintMismatch, match="of no fingerprint"):
        train_head(world.site, SCENARIO, FAST, Silent())


def test_a_prompt_that_has_seen_the_test_fold_is_refused(tmp_path: Path) -> None:
    world = small_world(tmp_path)
    add_manifest(world, prompt_fold=4)
    train_head(world.site, SCENARIO, FAST, Silent())
    with pytest.raises(LabelsInvalid, match="tuned with test fold 4 and has seen labels of fold 2"):
        train_head(world.site, SCENARIO, TrainOptions(test_fold=2, fit=FAST.fit), Silent())


def test_one_class_in_a_part_is_refused_before_fitting(tmp_path: Path) -> None:
    world = small_world(tmp_path, rows=12, folds=False, seed=3)
    add_manifest(world)
    with pytest.raises(LabelsInvalid, match=r"part (train|valid|test) of risk has"):
        train_head(world.site, SCENARIO, FAST, Silent())


@pytest.mark.parametrize("name", [booster_file(0), CARD_FILE])
def test_an_edited_or_missing_head_file_is_refused(world: World, name: str) -> None:
    train_head(world.site, SCENARIO, FAST, Silent())
    path = folder(world) / name
    path.write_text(path.read_text() + "\n")
    with pytest.raises(CheckpointInvalid, match=f"{name} was changed.*head train --scenario risk"):
        load_head(world.site, SCENARIO)
    path.unlink()
    with pytest.raises(CheckpointInvalid, match="cannot be read"):
        load_head(world.site, SCENARIO)


def test_edited_scores_of_a_head_are_refused(world: World) -> None:
    card = train_head(world.site, SCENARIO, FAST, Silent()).card
    path = folder(world) / SCORES_FILE
    table = pq.read_table(path)
    pq.write_table(table.set_column(table.column_names.index("head"), "head", table["label"]), path)
    with pytest.raises(CheckpointInvalid, match=f"{SCORES_FILE} was changed.*head train --scenario risk"):
        stored_scores(world)
    # A card of an earlier version names no hash: its scores are taken as they are.
    assert read_scores(folder(world), card.model_copy(update={"scores_hash": ""})).num_rows == 240


def test_a_card_is_plain_json_without_pickles(world: World) -> None:
    card = train_head(world.site, SCENARIO, FAST, Silent()).card
    written = json.loads((folder(world) / CARD_FILE).read_text())
    assert written["fingerprint"] == card.fingerprint
    assert written["labels_hash"] == card.labels_hash
    assert set(written["libraries"]) == {"lightgbm", "numpy", "scikit-learn", "qanchor"}
    assert (folder(world) / booster_file(0)).read_text().startswith("tree\n")


def test_figures_equal_scikit_learn(world: World) -> None:
    card = train_head(world.site, SCENARIO, FAST, Silent()).card
    table = stored_scores(world).to_pandas()
    test = table[table["part"] == "test"]
    truth = test["label"].to_numpy()
    for name in ("head", "probe", "aggregates"):
        found, scores = card.metrics[name], test[name].to_numpy()
        wrong, right, _ = reference.roc_curve(truth, scores)
        assert found["auc"] == pytest.approx(reference.roc_auc_score(truth, scores), abs=1e-9)
        assert found["ks"] == pytest.approx(float((right - wrong).max()), abs=1e-9)
        assert found["pr_auc"] == pytest.approx(reference.average_precision_score(truth, scores), abs=1e-9)
        assert found["brier"] == pytest.approx(reference.brier_score_loss(truth, scores), abs=1e-9)
        assert found["log_loss"] == pytest.approx(reference.log_loss(truth, scores), abs=1e-9)
        assert all(found[f"{f}_low"] <= found[f] <= found[f"{f}_high"] for f in ("auc", "brier", "log_loss"))
    parts = [table[table["part"] == part]["head"] for part in ("train", "valid", "test")]
    assert card.metrics["head"]["psi_train_test"] == pytest.approx(psi(parts[0], parts[2]), abs=1e-12)
    assert card.metrics["head"]["psi_valid_test"] == pytest.approx(psi(parts[1], parts[2]), abs=1e-12)


def test_segments_of_the_profile_are_measured_on_the_test_rows(world: World) -> None:
    card = train_head(world.site, SCENARIO, FAST, Silent()).card
    assert {row["feature"] for row in card.segments} == {"prof_city"}
    assert {row["value"] for row in card.segments} == {"east", "west"}
    assert sum(row["rows"] for row in card.segments) == card.rows["test"]


def test_importance_names_the_groups_of_features(world: World) -> None:
    card = train_head(world.site, SCENARIO, FAST, Silent()).card
    assert set(card.importance["groups"]) == {"embedding", "activity:bill", "activity:profile", "profile"}
    assert next(iter(card.importance["features"])) == "emb_000"
    assert set(card.importance["features"]) <= {*card.spec.names}
    total = sum(card.importance["groups"].values())
    assert 0 < sum(card.importance["features"].values()) >= total * 0.5


def test_constraints_come_from_the_scenario_and_from_the_command(world: World) -> None:
    workspace = world.site.workspace
    spec = workspace.scenario(SCENARIO).model_copy(
        update={"monotone": {"act_bill_sum_7d": -1, "prof_limit": 1}}
    )
    site = world.site.with_parts(workspace=replace(workspace, scenarios={SCENARIO: spec}))
    options = replace(FAST, fit=replace(FAST.fit, monotone={"prof_limit": -1}))
    card = train_head(site, SCENARIO, options, Silent()).card
    assert card.options.monotone == {"act_bill_sum_7d": -1, "prof_limit": -1}
    bound = dict(zip(card.spec.names, card.parameters["monotone_constraints"], strict=True))
    assert {name: side for name, side in bound.items() if side} == card.options.monotone


@pytest.mark.parametrize(
    ("monotone", "message"),
    [
        ({"act_typo": 1}, "'act_typo' names no feature"),
        ({"prof_city": 1}, "'prof_city' names a category"),
        ({"prof_limit": 2}, "'prof_limit' is 2"),
    ],
)
def test_a_constraint_that_cannot_hold_is_named(world: World, monotone: dict[str, int], message: str) -> None:
    options = replace(FAST, fit=replace(FAST.fit, monotone=monotone))
    with pytest.raises(InputError, match=message):
        train_head(world.site, SCENARIO, options, Silent())
    assert not world.site.home.heads.exists()


def test_categories_that_only_later_parts_have_are_counted(world: World) -> None:
    world.source.columns["prof_city"][4] = "mars"  # of the test fold
    card = train_head(world.site, SCENARIO, FAST, Silent()).card
    assert card.unseen == {"prof_city": {"mars": 1}}
    assert card.categories == {"prof_city": ("east", "west")}


def test_features_that_say_nothing_are_named(world: World) -> None:
    world.source.columns["act_bill_count_1d"] = [3.0] * 240
    card = train_head(world.site, SCENARIO, FAST, Silent()).card
    assert card.constant == ("act_bill_count_1d",)


def test_rows_that_the_prompt_has_seen_are_left_out_of_another_split(tmp_path: Path) -> None:
    world = small_world(tmp_path)
    add_manifest(world, prompt_fold=4)
    card = train_head(world.site, SCENARIO, replace(FAST, split="user"), Silent()).card
    assert card.split.by == "user"
    assert card.split.left_out["seen_by_the_prompt"] == 240 - sum(card.rows.values()) > 0


def test_features_that_are_older_than_their_labels_are_counted_and_limited(world: World) -> None:
    weeks = timedelta(days=20)

    def moments(labels: pa.Table) -> list[datetime | None]:
        times: list[datetime] = labels["as_of"].to_pylist()
        return [None, *(t - weeks for t in times[1:100]), *(t - timedelta(hours=12) for t in times[100:])]

    world.source.moments = {"user_emb_risk": moments, "user_activity": lambda t: t["as_of"].to_pylist()}
    assert train_head(world.site, SCENARIO, FAST, Silent()).card.stale == {"user_emb_risk": 99}
    activity = replace(FAST, groups=("activity",))
    assert train_head(world.site, SCENARIO, activity, Silent()).card.stale == {}
    for limit, refused in ((25.0, False), (14.0, True)):
        spec = world.site.workspace.scenario(SCENARIO).model_copy(update={"max_feature_age_days": limit})
        site = world.site.with_parts(workspace=replace(world.site.workspace, scenarios={SCENARIO: spec}))
        assert train_head(site, SCENARIO, activity, Silent()).card.stale == {}
        if not refused:
            assert train_head(site, SCENARIO, FAST, Silent()).card.stale == {"user_emb_risk": 99}
            continue
        with pytest.raises(NotReady, match=r"up to 20\.0 days older.*99 of 240 rows.*14.*--at-labels"):
            train_head(site, SCENARIO, FAST, Silent())
