"""Calibration of a booster's raw scores: a rising line through a few points, kept as JSON."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from qanchor.metrics import log_loss

Raw = NDArray[np.float64]
Labels = NDArray[np.int64]
Method = Literal["level", "sigmoid", "isotonic"]
Choice = Literal["auto", "sigmoid", "isotonic"]
_PARTS, _FEWEST, _TILT = 5, 25, 0.02


@dataclass(frozen=True)
class Calibration:
    """Maps a raw score to log-odds by a piecewise linear function that rises everywhere.

    The order of users stays, ties included, and every ranking metric is that of the raw scores.

    Args:
        method: method that fitted the line; `level` moves all log-odds by one number.
        raw: raw scores of the knots, ascending.
        log_odds: log-odds of label 1 at the knots, ascending.
        slope: log-odds per raw score before the first and after the last knot; above 0.
    """

    method: Method
    raw: tuple[float, ...]
    log_odds: tuple[float, ...]
    slope: float

    def probabilities(self, raw: Raw) -> Raw:
        """Chance of label 1, (rows,).

        Args:
            raw: raw scores, (rows,).
        """
        outside = np.minimum(raw - self.raw[0], 0) + np.maximum(raw - self.raw[-1], 0)
        odds = np.interp(raw, self.raw, self.log_odds) + self.slope * outside
        # Beyond this a float is 0 or 1, which no score is certain enough for.
        result: Raw = 1 / (1 + np.exp(-np.clip(odds, -36, 36)))
        return result


def calibrate(raw: Raw, labels: Labels, choice: Choice = "auto", seed: int = 7) -> Calibration:
    """The better of a logistic and an isotonic curve through the validation rows.

    They are compared by cross-fitted log loss: of five parts, each curve is fitted on four and measured on
    the fifth. The chosen one is then fitted on all rows.

    Args:
        raw: raw scores, (rows,).
        labels: 0 or 1.
        choice: the curve, or `auto`.
        seed: seed of the five parts.

    Raises:
        LabelsInvalid: only one class is present.
    """
    fits = {"sigmoid": fit_sigmoid, "isotonic": fit_isotonic}
    if choice != "auto":
        return fits[choice](raw, labels)
    ones = int(labels.sum())
    if min(ones, len(labels) - ones) < 2 * _PARTS:
        return fit_sigmoid(raw, labels)
    losses = {name: _cross_fitted_loss(fit, raw, labels, seed) for name, fit in fits.items()}
    return fits[min(losses, key=lambda name: losses[name])](raw, labels)


def _cross_fitted_loss(
    fit: Callable[[Raw, Labels], Calibration], raw: Raw, labels: Labels, seed: int
) -> float:
    chances, part = np.empty(len(raw)), _stratified_parts(labels, seed)
    for number in range(_PARTS):
        held_out = part == number
        chances[held_out] = fit(raw[~held_out], labels[~held_out]).probabilities(raw[held_out])
    return log_loss(labels, chances)


def _stratified_parts(labels: Labels, seed: int) -> NDArray[np.int64]:
    part, random = np.empty(len(labels), np.int64), np.random.default_rng(seed)
    for label in (0, 1):
        rows = np.flatnonzero(labels == label)
        part[random.permutation(rows)] = np.arange(len(rows)) % _PARTS
    return part


def fit_sigmoid(raw: Raw, labels: Labels) -> Calibration:
    """The logistic curve, by Newton's method.

    A curve that would reverse the order, or fits worse than the raw score, is dropped: then only the
    intercept moves, so that the mean probability is the observed rate. The steps are written out, as a stored
    head's calibration has to come out the same to the last digit when the head is fitted again.

    Raises:
        LabelsInvalid: only one class is present.

    Source: Platt, Advances in Large Margin Classifiers (1999).
    """
    # Platt's targets keep the curve finite where the classes do not overlap.
    ones = int(labels.sum())
    targets = np.where(labels == 1, (ones + 1) / (ones + 2), 1 / (len(labels) - ones + 2))
    design = np.stack([raw, np.ones(len(raw))], axis=1)
    weights = np.array([1.0, 0.0])
    for _ in range(50):
        chances = 1 / (1 + np.exp(-np.clip(design @ weights, -60, 60)))
        spread = np.maximum(chances * (1 - chances), 1e-9)
        hessian = (design * spread[:, None]).T @ design + 1e-6 * np.eye(2)
        step = np.linalg.solve(hessian, design.T @ (chances - targets))
        weights = weights - np.clip(step, -5, 5)
        if np.abs(step).max() < 1e-9:
            break
    fitted = Calibration("sigmoid", (0.0,), (float(weights[1]),), float(weights[0]))
    level = _level(raw, ones / len(raw))
    if fitted.slope <= 1e-3:
        return level
    better = log_loss(labels, fitted.probabilities(raw)) <= log_loss(labels, level.probabilities(raw))
    return fitted if better else level


def _level(raw: Raw, rate: float) -> Calibration:
    """Only an intercept, by bisection: the mean probability is `rate`."""
    low, high = -60.0, 60.0
    for _ in range(80):
        middle = (low + high) / 2
        if Calibration("level", (0.0,), (middle,), 1.0).probabilities(raw).mean() < rate:
            low = middle
        else:
            high = middle
    return Calibration("level", (0.0,), ((low + high) / 2,), 1.0)


def fit_isotonic(raw: Raw, labels: Labels) -> Calibration:
    """Isotonic regression over groups of neighbouring rows.

    Each group holds at least 25 rows and both labels, so that no rate is 0 or 1 by chance. Within a group the
    line rises a little about the group's rate, so that different raw scores stay different. Where the rates
    do not rise at all, the logistic curve is taken.

    Raises:
        LabelsInvalid: only one class is present.
    """
    from sklearn.isotonic import isotonic_regression

    sigmoid = fit_sigmoid(raw, labels)
    order = np.argsort(raw, kind="stable")
    distinct, group, rows = np.unique(raw[order], return_inverse=True, return_counts=True)
    ones = np.bincount(group, weights=labels[order])
    fitted = isotonic_regression(ones / rows, sample_weight=rows)
    begins = np.flatnonzero(np.concatenate(([True], np.diff(fitted) > 0)))
    groups = _merged(
        [
            _Steps(*step)
            for step in zip(
                np.add.reduceat(rows, begins).tolist(),
                np.add.reduceat(ones, begins).tolist(),
                distinct[begins].tolist(),
                distinct[np.append(begins[1:], len(distinct)) - 1].tolist(),
                strict=True,
            )
        ]
    )
    return _through(groups, sigmoid.slope) if len(groups) > 1 else sigmoid


@dataclass(frozen=True)
class _Steps:
    """Neighbouring raw scores of one rate."""

    rows: float
    ones: float
    first: float
    last: float

    @property
    def is_large_enough(self) -> bool:
        return self.rows >= _FEWEST and 0 < self.ones < self.rows

    def joined(self, other: "_Steps") -> "_Steps":
        return _Steps(self.rows + other.rows, self.ones + other.ones, self.first, other.last)


def _merged(groups: list[_Steps]) -> list[_Steps]:
    """Neighbours joined until each group is large enough."""
    kept: list[_Steps] = []
    for group in groups:
        if kept and not kept[-1].is_large_enough:
            kept[-1] = kept[-1].joined(group)
        else:
            kept.append(group)
    while len(kept) > 1 and not kept[-1].is_large_enough:
        last = kept.pop()
        kept[-1] = kept[-1].joined(last)
    return kept


def _through(groups: list[_Steps], slope: float) -> Calibration:
    """A knot at either end of each group, its log-odds a little below and above the group's."""
    odds = np.log([group.ones / (group.rows - group.ones) for group in groups])
    room = np.concatenate(([np.inf], np.diff(odds), [np.inf]))
    tilt = np.minimum(_TILT, np.minimum(room[:-1], room[1:]) / 4)
    knots: list[tuple[float, float]] = []
    for group, middle, reach in zip(groups, odds, tilt, strict=True):
        if group.first == group.last:
            knots.append((group.first, float(middle)))
        else:
            knots += [(group.first, float(middle - reach)), (group.last, float(middle + reach))]
    return Calibration("isotonic", tuple(x for x, _ in knots), tuple(z for _, z in knots), slope)
