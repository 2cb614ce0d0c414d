"""How well scores put label 1 above label 0; rows with equal scores are one group."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from qanchor.errors import InputError
from qanchor.metrics.tally import Floats, Tally, tally


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
    """The Kolmogorov-Smirnov statistic and its threshold.

    Args:
        statistic: largest true minus false positive rate, in [0, 1].
        threshold: highest score that reaches it, taking score >= threshold; +inf where none separates.
    """

    statistic: float
    threshold: float


def tallied_auc(counts: Tally) -> Floats:
    """`roc_auc` of every resample, (...)."""
    heights = 2 * counts.true_positives - counts.positives
    # Integer arithmetic up to the last division, so that the area does not depend on the order of addition.
    area = np.sum(counts.negatives * heights, axis=-1)
    return np.asarray(area / (2 * counts.all_positives * counts.all_negatives))


def tallied_ks(counts: Tally) -> Floats:
    """The statistic of `ks` of every resample, (...)."""
    positives, negatives = counts.all_positives[..., None], counts.all_negatives[..., None]
    gaps = counts.true_positives / positives - counts.false_positives / negatives
    return np.asarray(np.maximum(gaps.max(axis=-1), 0.0))


def tallied_pr_auc(counts: Tally) -> Floats:
    """`pr_auc` of every resample, (...)."""
    caught = counts.true_positives
    # A resample may lack the best scores: nothing is taken there and nothing added.
    precision = caught / np.maximum(caught + counts.false_positives, 1)
    return np.asarray(np.sum(precision * counts.positives, axis=-1) / counts.all_positives)


def tallied_gain(counts: Tally, share: float) -> Floats:
    """`gain_at` of every resample, (...).

    Raises:
        InputError: the share is outside (0, 1].
    """
    if not 0 < share <= 1:
        raise InputError(f"share {share} is outside (0, 1]", "Give the part of rows to take, such as 0.1.")
    rows = np.cumsum(counts.positives + counts.negatives, axis=-1)
    taken = share * rows[..., -1:]
    last = np.sum(rows < taken, axis=-1, keepdims=True)
    caught, here = (
        np.take_along_axis(values, last, axis=-1) for values in (counts.true_positives, counts.positives)
    )
    reached = np.take_along_axis(rows, last, axis=-1)
    held = here + np.take_along_axis(counts.negatives, last, axis=-1)
    # The group across the boundary counts at its mean rate.
    missing = here * (reached - taken) / np.maximum(held, 1)
    return np.asarray((caught - missing)[..., 0] / counts.all_positives)


def tallied_lift(counts: Tally, share: float) -> Floats:
    """`lift_at` of every resample, (...)."""
    return tallied_gain(counts, share) / share


def roc_curve(labels: ArrayLike, scores: ArrayLike) -> RocCurve:
    """The receiver operating characteristic, one point per distinct score.

    Raises:
        LabelsInvalid: only one class is present; give rows of both.
    """
    counts = tally(labels, scores)
    return RocCurve(
        np.concatenate(([0.0], counts.false_positives / counts.all_negatives)),
        np.concatenate(([0.0], counts.true_positives / counts.all_positives)),
        np.concatenate(([np.inf], counts.scores)),
    )


def roc_auc(labels: ArrayLike, scores: ArrayLike) -> float:
    """Chance that a random positive outscores a random negative, ties counting half.

    Raises:
        LabelsInvalid: only one class is present; give rows of both.
    """
    return float(tallied_auc(tally(labels, scores)))


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
    return float(tallied_pr_auc(tally(labels, scores)))


def gain_at(labels: ArrayLike, scores: ArrayLike, share: float) -> float:
    """Share of all positives among the best-scored `share` of rows, in [0, 1].

    A tie across the boundary counts at its rate, the mean over all orders of the tied rows.

    Args:
        labels: 0 or 1.
        scores: higher means likelier 1.
        share: share of the rows to take, in (0, 1].

    Raises:
        InputError: the share is outside (0, 1].
        LabelsInvalid: only one class is present.
    """
    return float(tallied_gain(tally(labels, scores), share))


def lift_at(labels: ArrayLike, scores: ArrayLike, share: float) -> float:
    """How many times more positives the best-scored `share` of rows holds than a random draw.

    Raises:
        InputError: the share is outside (0, 1].
        LabelsInvalid: only one class is present.
    """
    return gain_at(labels, scores, share) / share
