"""Quality of probabilities: their distance to the labels, and predicted against observed rates."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qanchor.metrics.tally import Floats, Tally, check_probabilities, checked, tally


@dataclass(frozen=True)
class CalibrationBins:
    """Predicted against observed rates, empty bins left out.

    Args:
        predicted: mean probability of each bin.
        observed: share of label 1 in each bin.
        rows: number of rows in each bin.
    """

    predicted: Floats
    observed: Floats
    rows: NDArray[np.int64]


def tallied_brier(counts: Tally) -> Floats:
    """`brier` of every resample, (...)."""
    chances = counts.scores
    total = counts.positives @ (1 - chances) ** 2 + counts.negatives @ chances**2
    return np.asarray(total / (counts.all_positives + counts.all_negatives))


def tallied_log_loss(counts: Tally) -> Floats:
    """`log_loss` of every resample, (...)."""
    tiny = np.finfo(np.float64).eps
    chances = np.clip(counts.scores, tiny, 1 - tiny)
    total = counts.positives @ np.log(chances) + counts.negatives @ np.log1p(-chances)
    return np.asarray(-total / (counts.all_positives + counts.all_negatives))


def tallied_calibration_error(counts: Tally, bins: int = 10) -> Floats:
    """`expected_calibration_error` of every resample, (...)."""
    chances = counts.scores
    bin_of = np.minimum((chances * bins).astype(np.int64), bins - 1)
    # The scores descend, so the rows of a bin are adjacent.
    starts = np.flatnonzero(np.concatenate(([True], bin_of[1:] != bin_of[:-1])))
    surplus = (counts.positives + counts.negatives) * chances - counts.positives
    gaps = np.abs(np.add.reduceat(surplus, starts, axis=-1)).sum(axis=-1)
    return np.asarray(gaps / (counts.all_positives + counts.all_negatives))


def _probability_tally(labels: ArrayLike, probabilities: ArrayLike) -> Tally:
    counts = tally(labels, probabilities)
    check_probabilities(counts.scores)
    return counts


def brier(labels: ArrayLike, probabilities: ArrayLike) -> float:
    """Mean squared distance between probability and label, in [0, 1]; lower is better.

    Raises:
        LabelsInvalid: only one class is present.
        InputError: a score is outside [0, 1].
    """
    return float(tallied_brier(_probability_tally(labels, probabilities)))


def log_loss(labels: ArrayLike, probabilities: ArrayLike) -> float:
    """Mean negative log-likelihood in nats; lower is better.

    Raises:
        LabelsInvalid: only one class is present.
        InputError: a score is outside [0, 1].
    """
    return float(tallied_log_loss(_probability_tally(labels, probabilities)))


def expected_calibration_error(labels: ArrayLike, probabilities: ArrayLike, bins: int = 10) -> float:
    """Mean gap between predicted and observed rate over bins of equal width, weighted by rows.

    Raises:
        LabelsInvalid: only one class is present.
        InputError: a score is outside [0, 1].
    """
    return float(tallied_calibration_error(_probability_tally(labels, probabilities), bins))


def calibration_bins(labels: ArrayLike, probabilities: ArrayLike, bins: int = 10) -> CalibrationBins:
    """Predicted and observed rates in bins of equal numbers of rows; equal probabilities share a bin.

    Raises:
        LabelsInvalid: only one class is present.
        InputError: a score is outside [0, 1].
    """
    truth, values = checked(labels, probabilities)
    check_probabilities(values)
    # Inner edges only, each once: many rows that share the lowest score are one bin.
    edges = np.unique(np.percentile(values, 100 * np.linspace(0, 1, bins + 1)[1:-1]))
    bin_of = np.searchsorted(edges, values, side="left")
    rows = np.bincount(bin_of)
    filled = rows > 0
    predicted = np.bincount(bin_of, weights=values)[filled] / rows[filled]
    observed = np.bincount(bin_of, weights=truth)[filled] / rows[filled]
    return CalibrationBins(predicted, observed, rows[filled])
