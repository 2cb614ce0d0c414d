"""The interval of an area under the ROC curve, and a test of two on the same rows, without resampling.

Source: DeLong, DeLong and Clarke-Pearson, Biometrics 44 (1988); by mid-ranks as in Sun and Xu, IEEE Signal
Processing Letters 21 (2014).
"""

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike

from qanchor.errors import InputError
from qanchor.metrics.resampling import Interval
from qanchor.metrics.tally import Floats, checked


@dataclass(frozen=True)
class AucTest:
    """Whether two areas on the same rows differ.

    Args:
        difference: first minus second, with its interval.
        standard_error: standard error of the difference.
        z: difference over standard error; 0 where both are the same.
        p_value: two-sided p-value of no difference.
    """

    difference: Interval
    standard_error: float
    z: float
    p_value: float


def auc_interval(labels: ArrayLike, scores: ArrayLike, confidence: float = 0.95) -> Interval:
    """An area with its normal interval, cut to [0, 1].

    Args:
        labels: 0 or 1, at least two of each.
        scores: scores of the rows.
        confidence: two-sided confidence, in (0, 1).

    Raises:
        LabelsInvalid: only one class is present.
        InputError: a class has a single row.
    """
    areas, covariance = _areas(labels, scores)
    reach = normal_quantile(confidence) * math.sqrt(max(covariance[0, 0], 0.0))
    return Interval(float(areas[0]), max(0.0, float(areas[0]) - reach), min(1.0, float(areas[0]) + reach))


def compare_auc(labels: ArrayLike, first: ArrayLike, second: ArrayLike, confidence: float = 0.95) -> AucTest:
    """DeLong's paired test of two scorers on the same rows.

    Args:
        labels: 0 or 1, at least two of each.
        first: scores of the rows.
        second: other scores of the same rows.
        confidence: confidence of the difference's interval.

    Raises:
        LabelsInvalid: only one class is present.
        InputError: a class has a single row.
    """
    areas, covariance = _areas(labels, first, second)
    difference = float(areas[0] - areas[1])
    variance = float(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1])
    error = math.sqrt(max(variance, 0.0))
    # Where both scorers order all rows alike the variance is a rounding error.
    z = 0.0 if error < 1e-12 else difference / error
    reach = normal_quantile(confidence) * error
    interval = Interval(difference, difference - reach, difference + reach)
    return AucTest(interval, error, z, math.erfc(abs(z) / math.sqrt(2)))


def normal_quantile(confidence: float) -> float:
    """Half the width of a two-sided normal interval, in standard errors."""
    return NormalDist().inv_cdf((1 + confidence) / 2)


def _areas(labels: ArrayLike, *scorers: ArrayLike) -> tuple[Floats, Floats]:
    """Areas, (scorers,), and their covariance, (scorers, scorers)."""
    above, below = [], []
    for scores in scorers:
        truth, values = checked(labels, scores)
        ones = truth == 1
        positives, negatives = int(ones.sum()), int((~ones).sum())
        if min(positives, negatives) < 2:
            raise InputError(
                "an area's variance needs two rows of each label", "Give more rows, or use the bootstrap."
            )
        everywhere, among = _midranks(values), np.empty(len(values))
        among[ones], among[~ones] = _midranks(values[ones]), _midranks(values[~ones])
        # Of each positive the share of negatives below it, of each negative the share of positives above.
        above.append((everywhere - among)[ones] / negatives)
        below.append(1 - (everywhere - among)[~ones] / positives)
    covariance = np.atleast_2d(np.cov(above)) / len(above[0]) + np.atleast_2d(np.cov(below)) / len(below[0])
    return np.mean(above, axis=1), np.asarray(covariance)


def _midranks(values: Floats) -> Floats:
    """Ranks from 1, equal values sharing their mean rank."""
    _, group, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return np.asarray((ends - (counts - 1) / 2)[group])
