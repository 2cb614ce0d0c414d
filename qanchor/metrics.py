"""How well scores separate two classes, and how sure one may be of it; numpy only.

`labels` are 0 or 1 and `scores` are finite, higher meaning likelier 1; both have shape (rows,).
Rows with equal scores are never ordered by chance: each metric takes them as one group.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qanchor.errors import InputError, LabelsInvalid

Floats = NDArray[np.float64]
Statistic = Callable[[NDArray[np.int64], Floats], float]


@dataclass(frozen=True)
class RocCurve:
    """A threshold sweep from the highest score down; the first point is (0, 0) at +inf.

    Args:
        false_positive_rate: ascending, in [0, 1].
        true_positive_rate: ascending, in [0, 1].
        thresholds: descending; a point counts the rows with score >= its threshold.
    """

    false_positive_rate: Floats
    true_positive_rate: Floats
    thresholds: Floats


@dataclass(frozen=True)
class Separation:
    """The Kolmogorov-Smirnov statistic and where it is reached.

    Args:
        statistic: largest true minus false positive rate, in [0, 1].
        threshold: the highest score that reaches it, taking score >= threshold; +inf where none separates.
    """

    statistic: float
    threshold: float


@dataclass(frozen=True)
class Interval:
    """A statistic with its bootstrap interval.

    Args:
        value: the statistic on all rows.
        low: lower end.
        high: upper end.
    """

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class CalibrationBins:
    """Predicted against observed rates, empty bins left out.

    Args:
        predicted: mean probability of each bin.
        observed: share of label 1 in each bin.
        rows: rows of each bin.
    """

    predicted: Floats
    observed: Floats
    rows: NDArray[np.int64]


@dataclass(frozen=True)
class _Sweep:
    """Counts of both classes at or above each distinct score, from the highest down."""

    true_positives: NDArray[np.int64]
    false_positives: NDArray[np.int64]
    thresholds: Floats

    @property
    def positives(self) -> int:
        return int(self.true_positives[-1])

    @property
    def negatives(self) -> int:
        return int(self.false_positives[-1])


def _checked(labels: ArrayLike, scores: ArrayLike) -> tuple[NDArray[np.int64], Floats]:
    label_array, score_array = np.asarray(labels), np.asarray(scores, dtype=np.float64)
    if label_array.ndim != 1 or label_array.shape != score_array.shape:
        raise InputError(
            f"labels have shape {label_array.shape} and scores {score_array.shape}",
            "Give one score per label.",
        )
    if not np.isin(label_array, (0, 1)).all():
        raise LabelsInvalid("labels hold something other than 0 and 1", "Map them to 0 and 1.")
    if not np.isfinite(score_array).all():
        raise InputError("scores hold NaN or infinity", "Score every row, or leave those rows out.")
    ones = int(label_array.sum())
    if ones in (0, len(label_array)):
        held = f"only label {min(ones, 1)}" if len(label_array) else "no rows"
        raise LabelsInvalid(
            f"{len(label_array)} rows hold {held}, one class: nothing can be separated",
            "Give rows with both label 0 and label 1.",
        )
    return label_array.astype(np.int64), score_array


def _probabilities(labels: ArrayLike, scores: ArrayLike) -> tuple[NDArray[np.int64], Floats]:
    label_array, probabilities = _checked(labels, scores)
    if probabilities.min() < 0 or probabilities.max() > 1:
        raise InputError("scores lie outside [0, 1]", "Give probabilities to this metric.")
    return label_array, probabilities


def _sweep(labels: ArrayLike, scores: ArrayLike) -> _Sweep:
    label_array, score_array = _checked(labels, scores)
    order = np.argsort(-score_array, kind="stable")
    sorted_scores, sorted_labels = score_array[order], label_array[order]
    ends = np.append(np.flatnonzero(np.diff(sorted_scores)), len(order) - 1)
    true_positives = np.cumsum(sorted_labels)[ends]
    return _Sweep(true_positives, ends + 1 - true_positives, sorted_scores[ends])


def roc_curve(labels: ArrayLike, scores: ArrayLike) -> RocCurve:
    """The receiver operating characteristic, one point per distinct score.

    Raises:
        LabelsInvalid: only one class is present; give rows of both.
    """
    sweep = _sweep(labels, scores)
    return RocCurve(
        np.concatenate(([0.0], sweep.false_positives / sweep.negatives)),
        np.concatenate(([0.0], sweep.true_positives / sweep.positives)),
        np.concatenate(([np.inf], sweep.thresholds)),
    )


def roc_auc(labels: ArrayLike, scores: ArrayLike) -> float:
    """Chance that a random positive outscores a random negative, ties counting half.

    Raises:
        LabelsInvalid: only one class is present; give rows of both.
    """
    sweep = _sweep(labels, scores)
    steps = np.diff(sweep.false_positives, prepend=0)
    heights = 2 * sweep.true_positives - np.diff(sweep.true_positives, prepend=0)
    # Integer arithmetic up to the last division, so that the area does not depend on the order of addition.
    return float(int(np.sum(steps * heights)) / (2 * sweep.positives * sweep.negatives))


def ks(labels: ArrayLike, scores: ArrayLike) -> Separation:
    """The largest gap between the true and the false positive rate, and its threshold.

    Raises:
        LabelsInvalid: only one class is present; give rows of both.
    """
    curve = roc_curve(labels, scores)
    gaps = curve.true_positive_rate - curve.false_positive_rate
    best = int(np.argmax(gaps))
    return Separation(float(gaps[best]), float(curve.thresholds[best]))


def pr_auc(labels: ArrayLike, scores: ArrayLike) -> float:
    """Average precision: precision at each threshold, weighted by the recall that it adds.

    Raises:
        LabelsInvalid: only one class is present; give rows of both.
    """
    sweep = _sweep(labels, scores)
    precision = sweep.true_positives / (sweep.true_positives + sweep.false_positives)
    added = np.diff(sweep.true_positives, prepend=0) / sweep.positives
    return float(np.sum(precision * added))


def brier(labels: ArrayLike, probabilities: ArrayLike) -> float:
    """Mean squared distance between probability and label, in [0, 1]; lower is better.

    Raises:
        LabelsInvalid: only one class is present.
        InputError: a score is no probability.
    """
    label_array, values = _probabilities(labels, probabilities)
    return float(np.mean((values - label_array) ** 2))


def log_loss(labels: ArrayLike, probabilities: ArrayLike) -> float:
    """Mean negative log-likelihood in nats; lower is better.

    Raises:
        LabelsInvalid: only one class is present.
        InputError: a score is no probability.
    """
    label_array, values = _probabilities(labels, probabilities)
    tiny = np.finfo(np.float64).eps
    clipped = np.clip(values, tiny, 1 - tiny)
    return float(-np.mean(np.where(label_array == 1, np.log(clipped), np.log1p(-clipped))))


def gain_at(labels: ArrayLike, scores: ArrayLike, share: float) -> float:
    """Share of all positives among the best-scored `share` of rows, in [0, 1].

    A tie across the boundary counts at its own rate, which is its mean over all orders of the tied rows.

    Args:
        labels: 0 or 1.
        scores: higher means likelier 1.
        share: part of the rows taken, in (0, 1].

    Raises:
        InputError: the share lies outside (0, 1].
        LabelsInvalid: only one class is present.
    """
    if not 0 < share <= 1:
        raise InputError(f"share {share} lies outside (0, 1]", "Give the part of rows to take, such as 0.1.")
    sweep = _sweep(labels, scores)
    taken = share * (sweep.positives + sweep.negatives)
    rows = np.concatenate(([0], sweep.true_positives + sweep.false_positives))
    caught = np.concatenate(([0], sweep.true_positives))
    return float(np.interp(taken, rows, caught) / sweep.positives)


def lift_at(labels: ArrayLike, scores: ArrayLike, share: float) -> float:
    """How many times more positives the best-scored `share` of rows holds than a random draw.

    Raises:
        InputError: the share lies outside (0, 1].
        LabelsInvalid: only one class is present.
    """
    return gain_at(labels, scores, share) / share


def calibration_bins(labels: ArrayLike, probabilities: ArrayLike, bins: int = 10) -> CalibrationBins:
    """Predicted and observed rates in bins of equal numbers of rows; equal probabilities share a bin.

    Raises:
        LabelsInvalid: only one class is present.
        InputError: a score is no probability.
    """
    label_array, values = _probabilities(labels, probabilities)
    edges = np.unique(np.quantile(values, np.linspace(0, 1, bins + 1)))
    return _binned(label_array, values, np.searchsorted(edges[1:-1], values, side="left"))


def _binned(labels: NDArray[np.int64], values: Floats, places: NDArray[np.int64]) -> CalibrationBins:
    rows = np.bincount(places)
    held = rows > 0
    predicted = np.bincount(places, weights=values)[held] / rows[held]
    observed = np.bincount(places, weights=labels)[held] / rows[held]
    return CalibrationBins(predicted, observed, rows[held])


def expected_calibration_error(labels: ArrayLike, probabilities: ArrayLike, bins: int = 10) -> float:
    """Mean gap between predicted and observed rate over bins of equal width, weighted by rows.

    Raises:
        LabelsInvalid: only one class is present.
        InputError: a score is no probability.
    """
    label_array, values = _probabilities(labels, probabilities)
    binned = _binned(label_array, values, np.minimum((values * bins).astype(np.int64), bins - 1))
    return float(np.sum(binned.rows * np.abs(binned.predicted - binned.observed)) / len(values))


def psi(expected: ArrayLike, actual: ArrayLike, bins: int = 10) -> float:
    """Population stability index: how far `actual` moved from `expected`, 0 where not at all.

    Args:
        expected: the reference; its quantiles are the bins.
        actual: what is compared with it.
        bins: number of quantile bins; equal values share one.

    Raises:
        InputError: one of them is empty or not finite.
    """
    reference, current = np.asarray(expected, dtype=np.float64), np.asarray(actual, dtype=np.float64)
    for values in (reference, current):
        if not len(values) or not np.isfinite(values).all():
            raise InputError("psi needs finite values on both sides", "Leave out missing scores.")
    edges = np.unique(np.quantile(reference, np.linspace(0, 1, bins + 1)))[1:-1]
    shares = [_shares(values, edges) for values in (reference, current)]
    return float(np.sum((shares[1] - shares[0]) * np.log(shares[1] / shares[0])))


def _shares(values: Floats, edges: Floats) -> Floats:
    counts = np.bincount(np.searchsorted(edges, values, side="left"), minlength=len(edges) + 1)
    # An empty bin counts as a ten-thousandth, the customary floor, or one empty bin would be infinite drift.
    floored = np.maximum(counts / len(values), 1e-4)
    result: Floats = floored / floored.sum()
    return result


@dataclass(frozen=True)
class Bootstrap:
    """How to resample.

    Args:
        draws: resamples.
        confidence: two-sided, in (0, 1).
        seed: the same seed gives the same interval.
    """

    draws: int = 500
    confidence: float = 0.95
    seed: int = 7


def bootstrap_interval(
    statistic: Statistic,
    labels: ArrayLike,
    scores: ArrayLike,
    baseline: ArrayLike | None = None,
    options: Bootstrap | None = None,
) -> Interval:
    """A percentile bootstrap interval, resampled within each class so that both stay present.

    Args:
        statistic: takes labels and scores, such as `roc_auc`.
        labels: 0 or 1.
        scores: of the rows.
        baseline: other scores of the same rows; given, the interval is of the paired difference
            statistic(scores) - statistic(baseline), both on the same resample.
        options: draws, confidence and seed.

    Raises:
        LabelsInvalid: only one class is present.
    """
    chosen = options or Bootstrap()
    label_array, score_array = _checked(labels, scores)
    other = None if baseline is None else _checked(labels, baseline)[1]

    def value(rows: Any) -> float:
        own = statistic(label_array[rows], score_array[rows])
        return own if other is None else own - statistic(label_array[rows], other[rows])

    random = np.random.default_rng(chosen.seed)
    groups = [np.flatnonzero(label_array == label) for label in (0, 1)]
    draws = [
        value(np.concatenate([random.choice(group, len(group)) for group in groups]))
        for _ in range(chosen.draws)
    ]
    tail = (1 - chosen.confidence) / 2
    low, high = np.quantile(draws, (tail, 1 - tail))
    return Interval(value(slice(None)), float(low), float(high))
