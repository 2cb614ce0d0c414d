from dataclasses import replace

import numpy as np
import pytest

from qanchor.errors import InputError, LabelsInvalid
from qanchor.heads.fit import (
    ClassWeight,
    FitOptions,
    FitRows,
    FitTask,
    FittedHead,
    constant_columns,
    fit_head,
    refit_head,
)
from qanchor.metrics import roc_auc

FAST = FitOptions(rounds=40, patience=10)
NAMES = ("a", "b", "c")


def rows(seed: int, size: int = 300, rate: float = 0.3) -> FitRows:
    random = np.random.default_rng(seed)
    labels = (random.random(size) < rate).astype(np.int64)
    features = random.normal(size=(size, 3)).astype(np.float32)
    features[:, 0] += 1.5 * labels
    return FitRows(features, labels)


def fit(train: FitRows, valid: FitRows, options: FitOptions = FAST) -> FittedHead:
    return fit_head(FitTask(train, valid, NAMES), options)


def test_a_head_learns_what_there_is_to_learn() -> None:
    fitted = fit(rows(0), rows(1))
    test = rows(2)
    assert roc_auc(test.labels, fitted.predict(test.features)) > 0.8
    assert 1 <= fitted.boosters.rounds[0] <= 40
    assert fitted.tried == 2


def test_the_same_seed_gives_the_same_file() -> None:
    first = fit(rows(0), rows(1))
    second = fit(rows(0), rows(1))
    assert first.boosters.texts == second.boosters.texts
    assert first.calibration == second.calibration


def test_rare_positives_keep_honest_probabilities() -> None:
    fitted = fit(rows(0, 3000, 0.05), rows(1, 3000, 0.05))
    test = rows(2, 3000, 0.05)
    assert fitted.predict(test.features).mean() == pytest.approx(test.labels.mean(), abs=0.015)


def test_missing_values_and_constant_columns_are_no_obstacle() -> None:
    train, valid, test = rows(0), rows(1), rows(2)
    for part in (train, valid, test):
        part.features[::4, 1] = np.nan
        part.features[::5] = np.nan
        part.features[:, 2] = 7.0
    fitted = fit(train, valid)
    assert np.isfinite(fitted.predict(test.features)).all()


def test_only_constant_features_are_refused() -> None:
    train = FitRows(np.ones((50, 3), np.float32), rows(0, 50).labels)
    with pytest.raises(InputError, match="none of 3 features varies over 50 training rows"):
        fit(train, rows(1))


@pytest.mark.parametrize("label", [0, 1])
def test_one_class_is_refused(label: int) -> None:
    one = FitRows(rows(0).features, np.full(300, label))
    with pytest.raises(LabelsInvalid, match=f"only label {label}"):
        fit(one, rows(1))
    with pytest.raises(LabelsInvalid, match=f"only label {label}"):
        fit(rows(1), one)


def test_more_seeds_are_averaged_and_the_first_is_the_single_one() -> None:
    single, several = fit(rows(0), rows(1)), fit(rows(0), rows(1), replace(FAST, seeds=3))
    features = rows(2).features
    raws = [member.predict(features, raw_score=True) for member in several.boosters.members]
    np.testing.assert_allclose(several.boosters.raw(features), np.mean(raws, axis=0), atol=1e-12)
    assert several.boosters.texts[0] == single.boosters.texts[0]
    assert len(set(several.boosters.texts)) == 3
    assert len(several.boosters.rounds) == 3


def test_a_search_tries_more_and_never_settles_for_less_on_the_validation_rows() -> None:
    plain, searched = fit(rows(0), rows(1)), fit(rows(0), rows(1), replace(FAST, search_seconds=0.4))
    assert searched.tried > plain.tried == 2
    assert searched.valid_auc >= plain.valid_auc


def test_a_head_is_fitted_again_from_its_parameters_alone() -> None:
    options = replace(FAST, search_seconds=0.2, seeds=2)
    task = FitTask(rows(0), rows(1), NAMES)
    found = fit_head(task, options)
    again = refit_head(task, options, found.parameters)
    assert again.boosters.texts == found.boosters.texts
    assert again.calibration == found.calibration


@pytest.mark.parametrize(("kind", "weight"), [("none", 1.0), ("root", 3.0), ("balanced", 9.0)])
def test_class_weights_are_what_they_are_called(kind: ClassWeight, weight: float) -> None:
    train = rows(0, 1000)
    train.labels[:] = np.arange(1000) % 10 == 0
    found = fit(train, rows(1), replace(FAST, class_weight=kind))
    assert found.parameters["scale_pos_weight"] == pytest.approx(weight)


@pytest.mark.parametrize("direction", [1, -1])
def test_a_constrained_feature_moves_the_score_one_way_alone(direction: int) -> None:
    train, valid = rows(0, 2000), rows(1, 2000)
    free = fit(train, valid)
    bound = fit(train, valid, replace(FAST, monotone={"a": direction, "unknown": 1}))
    grid = np.repeat(rows(2, 40).features, 50, axis=0)
    grid[:, 0] = np.tile(np.linspace(-4, 4, 50), 40)
    steps = np.diff(bound.boosters.raw(grid).reshape(40, 50), axis=1)
    assert (direction * steps >= -1e-12).all()
    # The feature raises the score in truth: bound the other way it cannot say so.
    assert (bound.valid_auc > 0.8) == (direction == 1)
    assert (np.diff(free.boosters.raw(grid).reshape(40, 50), axis=1) > 1e-6).any()


def test_contributions_add_up_to_the_raw_score() -> None:
    found, features = fit(rows(0), rows(1), replace(FAST, seeds=2)), rows(2).features
    features[::7, 0] = np.nan
    parts = found.boosters.contributions(features)
    assert parts.shape == (300, 4)
    np.testing.assert_allclose(parts.sum(axis=1), found.boosters.raw(features), atol=1e-9)


def test_columns_that_say_nothing_are_named() -> None:
    features = rows(0).features
    features[:, 1], features[:, 2] = np.nan, 7.0
    assert constant_columns(features, NAMES) == ("b", "c")
    features[0, 1] = 1.0
    assert constant_columns(features, NAMES) == ("c",)
