"""The benchmark on real data: no head sees its test fold, figures equal a loop, no data is no crash."""

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score, roc_curve

from benchmarks.quality import main
from benchmarks.quality_cache import ResultCache, code_hash
from benchmarks.quality_data import FOLDS, DataSet, Task
from benchmarks.quality_figures import Resampler, figures_of
from benchmarks.quality_heads import (
    BEST,
    LINEAR,
    Block,
    CacheStage,
    Candidates,
    fit_outside,
    score_head,
)
from qanchor.events.history import EventArrays
from qanchor.workspace import Workspace

ROWS = 300
CHANCE = np.random.default_rng(0)
FEATURES = CHANCE.normal(size=(ROWS, 4))
LABELS = (FEATURES[:, 0] + CHANCE.normal(size=ROWS) > 0.8).astype(np.int64)
FOLD = np.arange(ROWS) % FOLDS
BLOCK = Block(FEATURES, "standard")
TASK = Task(
    "one",
    np.array([f"u{row}" for row in range(ROWS)], dtype=object),
    np.arange(ROWS),
    np.zeros(ROWS, np.int64),
    LABELS,
    FOLD,
    FEATURES,
)
DATA = DataSet(
    "set",
    Workspace(Path(), 90, {}, {}),
    EventArrays(TASK.users, (), ()),
    {"one": TASK},
    datetime(2024, 1, 1, tzinfo=UTC),
    "",
)


@pytest.mark.parametrize("among", [LINEAR, BEST, Candidates(strengths=())])
def test_no_head_sees_the_labels_of_its_own_fold(among: Candidates, tmp_path: Path) -> None:
    before = score_head(lambda _: [BLOCK], LABELS, FOLD, among, CacheStage(ResultCache(tmp_path), "heads"))
    changed = np.where(FOLD == 2, 1 - LABELS, LABELS)
    after = score_head(lambda _: [BLOCK], changed, FOLD, among, CacheStage(ResultCache(tmp_path), "heads"))
    np.testing.assert_array_equal(before.scores[FOLD == 2], after.scores[FOLD == 2])
    assert before.chosen[2] == after.chosen[2]
    assert (before.scores[FOLD != 2] != after.scores[FOLD != 2]).any()


def test_a_fold_is_scored_with_the_features_made_for_it(tmp_path: Path) -> None:
    def of_fold(outer: int) -> list[Block]:
        return [Block(FEATURES if outer == 1 else np.zeros_like(FEATURES), "standard")]

    scores = score_head(of_fold, LABELS, FOLD, LINEAR, CacheStage(ResultCache(tmp_path), "heads")).scores
    assert np.ptp(scores[FOLD == 0]) == 0
    assert roc_auc_score(LABELS[FOLD == 1], scores[FOLD == 1]) > 0.6


def test_what_is_outside_training_never_teaches() -> None:
    train = np.arange(ROWS) < 200
    first = fit_outside([BLOCK], LABELS, train, FOLD, LINEAR)
    again = fit_outside([BLOCK], np.where(train, LABELS, 1 - LABELS), train, FOLD, LINEAR)
    np.testing.assert_array_equal(first, again)


def test_figures_are_means_over_the_folds() -> None:
    scores = FEATURES[:, 0] + FEATURES[:, 1]
    areas, statistics = [], []
    for fold in range(FOLDS):
        own = fold == FOLD
        wrong, right, _ = roc_curve(LABELS[own], scores[own])
        areas.append(roc_auc_score(LABELS[own], scores[own]))
        statistics.append(float((right - wrong).max()))
    found = figures_of(TASK, scores)
    assert found.auc == pytest.approx(np.mean(areas))
    assert found.ks == pytest.approx(np.mean(statistics))


def test_intervals_are_paired() -> None:
    good, noise = FEATURES[:, 0], CHANCE.normal(size=ROWS)
    resampler = Resampler([DATA], draws=200)
    same = resampler.gain({"one": good}, {"one": good})
    assert (same.auc.value, same.auc.low, same.auc.high) == (0.0, 0.0, 0.0)
    better = resampler.gain({"one": good}, {"one": noise})
    assert 0 < better.auc.low < better.auc.value < better.auc.high
    assert 0 < better.ks.low < better.ks.value


def test_without_the_data_it_is_skipped_with_a_word(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr("sys.argv", ["quality", "--data", str(tmp_path)])
    main()
    assert capsys.readouterr().out.startswith("skipped: there is no")


def test_a_result_is_made_once_and_the_account_says_where_it_came_from(tmp_path: Path) -> None:
    made: list[Path] = []

    def make(path: Path) -> None:
        made.append(path)
        path.write_text("content")

    for _ in range(2):
        cache = ResultCache(tmp_path)
        paths = [cache.keep("stage", "one.txt", {"setting": value}, make) for value in (1, 2)]
    assert len(made) == 2
    assert paths[0] != paths[1]
    assert [result.reused for result in cache.account] == [True, True]
    row = cache.rows()[0]
    assert (row["made now"], row["from the cache"]) == (0, 2)


def test_an_interrupted_result_is_made_anew(tmp_path: Path) -> None:
    def interrupted(path: Path) -> None:
        path.write_text("half")
        raise KeyboardInterrupt

    cache = ResultCache(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        cache.keep("stage", "one.txt", {}, interrupted)

    def whole(path: Path) -> None:
        path.write_text("whole")

    path = cache.keep("stage", "one.txt", {}, whole)
    assert path.read_text() == "whole"
    assert list(tmp_path.iterdir()) == [path]


def test_other_code_has_another_hash() -> None:
    heads = code_hash("benchmarks/quality_heads.py")
    assert heads == code_hash("benchmarks/quality_heads.py")
    assert heads != code_hash("benchmarks/quality_data.py")
    assert heads != code_hash("benchmarks/quality_heads.py", libraries=("numpy",))
    assert code_hash("qanchor/training") != code_hash("qanchor/training", without=("tune",))
