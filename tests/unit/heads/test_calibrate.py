from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from qanchor.heads.calibrate import Calibration, calibrate, fit_isotonic, fit_sigmoid
from qanchor.metrics import expected_calibration_error, log_loss, roc_auc

Raw = NDArray[np.float64]
Labels = NDArray[np.int64]


def drawn(seed: int, slope: float, intercept: float, rows: int = 20_000) -> tuple[Raw, Labels]:
    random = np.random.default_rng(seed)
    raw = random.normal(size=rows)
    chances = 1 / (1 + np.exp(-(slope * raw + intercept)))
    return raw, (random.random(rows) < chances).astype(np.int64)


def bent(seed: int, rows: int = 20_000) -> tuple[Raw, Labels]:
    """Raw scores whose rates rise in two steps, as no logistic curve does."""
    random = np.random.default_rng(seed)
    raw = random.normal(size=rows)
    chances = np.where(raw < -0.5, 0.02, np.where(raw < 1.0, 0.3, 0.9))
    return raw, (random.random(rows) < chances).astype(np.int64)


def test_the_logistic_curve_finds_the_curve_that_drew_the_labels() -> None:
    found = fit_sigmoid(*drawn(0, 1.7, -2.0))
    assert (found.slope, found.log_odds[0]) == pytest.approx((1.7, -2.0), abs=0.1)


@pytest.mark.parametrize("fit", [fit_sigmoid, fit_isotonic])
def test_no_curve_turns_the_order_round(fit: Callable[[Raw, Labels], Calibration]) -> None:
    raw, labels = drawn(0, -1.0, 0.0)
    found = fit(raw, labels)
    assert found.slope > 0
    assert (np.diff(found.probabilities(np.linspace(-9, 9, 500))) > 0).all()
    assert found.probabilities(raw).mean() == pytest.approx(labels.mean(), abs=0.01)


def test_calibration_stays_finite_where_classes_do_not_overlap() -> None:
    raw, labels = np.array([-3.0, -2.0, 2.0, 3.0]), np.array([0, 0, 1, 1])
    for found in (fit_sigmoid(raw, labels), fit_isotonic(raw, labels), calibrate(raw, labels)):
        assert np.isfinite([found.slope, *found.log_odds]).all()
        assert (np.diff(found.probabilities(raw)) > 0).all()


def test_the_isotonic_curve_keeps_the_order_of_every_row() -> None:
    raw, labels = bent(0, 3000)
    found = fit_isotonic(raw, labels)
    assert found.method == "isotonic"
    assert roc_auc(labels, found.probabilities(raw)) == roc_auc(labels, raw)
    far = found.probabilities(np.array([-60.0, raw.min(), raw.max(), 60.0]))
    assert ((far > 0) & (far < 1)).all()


def logistic(seed: int) -> tuple[Raw, Labels]:
    return drawn(seed, 1.7, -2.0, 3000)


@pytest.mark.parametrize(
    ("make", "method", "other"), [(bent, "isotonic", fit_sigmoid), (logistic, "sigmoid", fit_isotonic)]
)
def test_the_curve_that_fits_unseen_rows_better_is_chosen(
    make: Callable[[int], tuple[Raw, Labels]], method: str, other: Callable[[Raw, Labels], Calibration]
) -> None:
    chosen = [calibrate(*make(seed)) for seed in range(5)]
    assert sum(one.method == method for one in chosen) >= 4
    raw, labels = make(99)
    losses = [log_loss(labels, found.probabilities(raw)) for found in (chosen[0], other(*make(0)))]
    assert losses[0] < losses[1]


def test_calibrated_probabilities_are_honest_on_unseen_rows() -> None:
    raw, labels = bent(2)
    found, logistic_curve = calibrate(*bent(1)), fit_sigmoid(*bent(1))
    # Drawing the labels alone costs .001 to .005 here, and the logistic curve .09.
    assert expected_calibration_error(labels, found.probabilities(raw)) < 0.015
    assert expected_calibration_error(labels, logistic_curve.probabilities(raw)) > 0.08


def test_the_choice_does_not_judge_a_curve_by_rows_it_was_fitted_on() -> None:
    looks_better = chosen = 0
    for seed in range(20):
        raw, labels = drawn(seed, 1.0, -1.0, 400)
        own = [log_loss(labels, fit(raw, labels).probabilities(raw)) for fit in (fit_sigmoid, fit_isotonic)]
        looks_better += own[1] < own[0]
        chosen += calibrate(raw, labels).method == "isotonic"
    # A logistic curve drew the labels: judged by its own rows the isotonic one would win nearly always.
    assert looks_better >= 18
    assert chosen <= 6


def test_a_curve_can_be_asked_for() -> None:
    raw, labels = drawn(0, 1.0, 0.0, 2000)
    assert calibrate(raw, labels, "isotonic").method == "isotonic"
    assert calibrate(raw, labels, "sigmoid").method == "sigmoid"


def test_between_knots_and_beyond_them_the_line_goes_on() -> None:
    line = Calibration("isotonic", (0.0, 2.0), (0.0, 1.0), 3.0)
    odds = -np.log(1 / line.probabilities(np.array([-1.0, 0.0, 1.0, 2.0, 3.0])) - 1)
    np.testing.assert_allclose(odds, [-3.0, 0.0, 0.5, 1.0, 4.0], atol=1e-9)
