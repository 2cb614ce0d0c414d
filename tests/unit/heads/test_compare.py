from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from qanchor.errors import CheckpointInvalid, FingerprintMismatch, LabelsInvalid, NotReady
from qanchor.heads.card import FRAME_FILE, SCORES_FILE, booster_file
from qanchor.heads.compare import compare_heads, promote
from qanchor.heads.refit import refit
from qanchor.heads.score import ScoreRequest, score_users
from qanchor.heads.train import TrainedHead, TrainOptions, train_head
from qanchor.progress import Silent
from qanchor.registry.versions import active_head
from tests.unit.heads.fakes import FAST, SCENARIO, World, add_manifest, small_world

WEAK = replace(FAST, groups=("activity",))


def trained(world: World, options: TrainOptions = FAST) -> TrainedHead:
    return train_head(world.site, SCENARIO, options, Silent())


def folder(world: World, head: TrainedHead) -> Path:
    return world.site.home.heads / SCENARIO / head.card.version


def test_a_comparison_equals_scikit_learn_on_the_common_test_rows(tmp_path: Path) -> None:
    world = small_world(tmp_path, rows=1200)
    add_manifest(world)
    old, new = trained(world, WEAK), trained(world)
    found = compare_heads(world.site, SCENARIO)
    assert (found.champion, found.challenger) == (old.card.version, new.card.version)
    assert (found.rows, found.positives) == (240, int(old.card.metrics["head"]["positives"]))
    tables = [pq.read_table(folder(world, head) / SCORES_FILE).to_pandas() for head in (old, new)]
    first, second = (table[table["part"] == "test"].sort_values("user_id") for table in tables)
    truth = first["label"].to_numpy()
    areas = [roc_auc_score(truth, table["head"]) for table in (first, second)]
    assert found.champion_figures["auc"].value == pytest.approx(areas[0], abs=1e-9)
    assert found.challenger_figures["auc"].value == pytest.approx(areas[1], abs=1e-9)
    assert found.auc_test.difference.value == pytest.approx(areas[1] - areas[0], abs=1e-9)
    precision = [average_precision_score(truth, table["head"]) for table in (first, second)]
    assert found.differences["pr_auc"].value == pytest.approx(precision[1] - precision[0], abs=1e-9)
    # The embedding knows most of the truth, the aggregates little.
    assert found.verdict == "better"
    assert found.auc_test.p_value < 0.05


def test_the_same_head_twice_makes_no_clear_difference(world: World) -> None:
    trained(world)
    trained(world)
    found = compare_heads(world.site, SCENARIO)
    assert (found.verdict, found.auc_test.p_value) == ("no clear difference", 1.0)
    assert all(one.low == one.value == one.high == 0 for one in found.differences.values())


def test_versions_can_be_named_by_their_beginning(world: World) -> None:
    old, new = trained(world, WEAK), trained(world)
    found = compare_heads(world.site, SCENARIO, old.card.version, new.card.version)
    assert (found.champion, found.challenger) == (new.card.version, old.card.version)
    assert found.differences["auc"].value < 0
    with pytest.raises(NotReady, match="compared with itself"):
        compare_heads(world.site, SCENARIO, old.card.version)
    with pytest.raises(NotReady, match="has no head 'x'"):
        compare_heads(world.site, SCENARIO, "x")
    with pytest.raises(NotReady, match="has 2 heads '20'"):
        compare_heads(world.site, SCENARIO, "20")


def test_heads_without_common_test_rows_are_not_compared(world: World) -> None:
    trained(world)
    train_head(world.site, SCENARIO, replace(FAST, test_fold=1), Silent())
    with pytest.raises(LabelsInvalid, match=r"share 0 test rows.*same --split and --test-fold"):
        compare_heads(world.site, SCENARIO)


def test_scoring_takes_the_champion_and_a_promoted_challenger_takes_over(world: World) -> None:
    old = trained(world, WEAK)
    with pytest.raises(NotReady, match="risk has no challenger"):
        promote(world.site, SCENARIO)
    new = trained(world)
    asked = ScoreRequest(world.source.users[:9])
    before = score_users(world.site, SCENARIO, asked)
    assert before.head == old.card.version
    assert promote(world.site, SCENARIO).version == new.card.version
    after = score_users(world.site, SCENARIO, asked)
    assert after.head == new.card.version
    assert not after.table.equals(before.table)
    promote(world.site, SCENARIO, old.card.version)
    assert score_users(world.site, SCENARIO, asked).table.equals(before.table)


@pytest.mark.parametrize("name", [booster_file(0), FRAME_FILE, "card.json"])
def test_an_edited_head_is_not_promoted(world: World, name: str) -> None:
    old, new = trained(world), trained(world, WEAK)
    path = folder(world, new) / name
    path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(CheckpointInvalid, match=f"{name} was changed"):
        promote(world.site, SCENARIO)
    assert active_head(world.site.engine, SCENARIO).version == old.card.version


def test_a_head_of_other_vectors_is_not_promoted(world: World) -> None:
    trained(world)
    old = trained(world)
    add_manifest(world, fingerprint="e" * 32)
    world.source.fingerprints[SCENARIO] = "e" * 32
    new = trained(world)
    with pytest.raises(
        FingerprintMismatch, match=r"reads vectors of ffffffffffff, in service are eeeeeeeeeeee"
    ):
        promote(world.site, SCENARIO, old.card.version)
    assert active_head(world.site.engine, SCENARIO).version == new.card.version


def test_a_head_is_fitted_again_exactly_from_its_own_frame(world: World) -> None:
    options = replace(FAST, fit=replace(FAST.fit, seeds=2, search_seconds=0.2, monotone={"prof_limit": 1}))
    train_head(world.site, SCENARIO, options, Silent())
    # What the stores hold by now does not matter.
    world.source.columns["emb_risk"] = [None] * 240
    found = refit(world.site, SCENARIO)
    assert (found.exact, found.rows, found.largest_difference) == (True, 240, 0.0)
    assert found.changed_libraries == {}


def test_a_frame_that_was_edited_is_refused(world: World) -> None:
    head = trained(world)
    path = folder(world, head) / FRAME_FILE
    table = pq.read_table(path)
    flipped = 1 - np.asarray(table["label"])
    pq.write_table(table.set_column(table.column_names.index("label"), "label", [flipped]), path)
    with pytest.raises(CheckpointInvalid, match=r"frame.parquet was changed"):
        refit(world.site, SCENARIO)
