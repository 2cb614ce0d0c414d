import numpy as np
import pytest
from numpy.typing import NDArray

from qanchor.errors import InputError, LabelsInvalid
from qanchor.heads.fit import Calibration, FitOptions, FitRows, calibrate, fit_head
from qanchor.metrics import roc_auc

FAST = FitOptions(rounds=40, patience=10)
NAMES = ("a", "b", "c")


def rows(seed: int, size: int = 300, rate: float = 0.3) -> FitRows:
    random = np.random.default_rng(seed)
    labels = (random.random(size) < rate).astype(np.int64)
    features = random.normal(size=(size, 3)).astype(np.float32)
    features[:, 0] += 1.5 * labels
    return FitRows(features, labels)


def test_a_head_learns_what_there_is_to_learn() -> None:
    fitted = fit_head(rows(0), rows(1), NAMES, [], FAST)
    test = rows(2)
    assert roc_auc(test.labels, fitted.predict(test.features)) > 0.8
    assert 1 <= fitted.rounds <= 40


def test_the_same_seed_gives_the_same_file() -> None:
    first = fit_head(rows(0), rows(1), NAMES, [], FAST)
    second = fit_head(rows(0), rows(1), NAMES, [], FAST)
    assert first.booster.model_to_string() == second.booster.model_to_string()
    assert first.calibration == second.calibration


def test_rare_positives_keep_honest_probabilities() -> None:
    fitted = fit_head(rows(0, 3000, 0.05), rows(1, 3000, 0.05), NAMES, [], FAST)
    test = rows(2, 3000, 0.05)
    assert fitted.predict(test.features).mean() == pytest.approx(test.labels.mean(), abs=0.015)


def test_missing_values_and_constant_columns_are_no_obstacle() -> None:
    train, valid, test = rows(0), rows(1), rows(2)
    for part in (train, valid, test):
        part.features[::4, 1] = np.nan
        part.features[::5] = np.nan
        part.features[:, 2] = 7.0
    fitted = fit_head(train, valid, NAMES, [], FAST)
    assert np.isfinite(fitted.predict(test.features)).all()


def test_only_constant_features_are_refused() -> None:
    train = FitRows(np.ones((50, 3), np.float32), rows(0, 50).labels)
    with pytest.raises(InputError, match="none of 3 features varies over 50 training rows"):
        fit_head(train, rows(1), NAMES, [], FAST)


@pytest.mark.parametrize("label", [0, 1])
def test_one_class_is_refused(label: int) -> None:
    one = FitRows(rows(0).features, np.full(300, label))
    with pytest.raises(LabelsInvalid, match=f"only label {label}"):
        fit_head(one, rows(1), NAMES, [], FAST)
    with pytest.raises(LabelsInvalid, match=f"only label {label}"):
        fit_head(rows(1), one, NAMES, [], FAST)


def _drawn(seed: int, slope: float, intercept: float) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    random = np.random.default_rng(seed)
    raw = random.normal(size=20_000)
    chances = 1 / (1 + np.exp(-(slope * raw + intercept)))
    return raw, (random.random(20_000) < chances).astype(np.int64)


def test_calibration_finds_the_curve_that_drew_the_labels() -> None:
    found = calibrate(*_drawn(0, 1.7, -2.0))
    assert (found.slope, found.intercept) == pytest.approx((1.7, -2.0), abs=0.1)


def test_calibration_never_turns_the_order_round() -> None:
    raw, labels = _drawn(0, -1.0, 0.0)
    found = calibrate(raw, labels)
    assert found.slope == 1.0
    assert found.probabilities(raw).mean() == pytest.approx(labels.mean(), abs=1e-6)


def test_calibration_stays_finite_where_classes_do_not_overlap() -> None:
    raw, labels = np.array([-3.0, -2.0, 2.0, 3.0]), np.array([0, 0, 1, 1])
    found = calibrate(raw, labels)
    assert np.isfinite([found.slope, found.intercept]).all()
    assert (np.diff(Calibration(found.slope, found.intercept).probabilities(raw)) > 0).all()
