"""Counts of both classes at each distinct score, from which every metric here is computed.

A tally may hold many resamples of the same rows at once; then every metric of it is one number per resample.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qanchor.errors import InputError, LabelsInvalid

Floats = NDArray[np.float64]
Int64 = NDArray[np.int64]


@dataclass(frozen=True)
class Tally:
    """Rows of each class at each distinct score.

    Args:
        scores: distinct, from the highest down, (groups,).
        positives: rows with label 1, (..., groups).
        negatives: rows with label 0, (..., groups).
    """

    scores: Floats
    positives: Int64
    negatives: Int64

    @property
    def true_positives(self) -> Int64:
        """Rows with label 1 at or above each score, (..., groups)."""
        return np.asarray(np.cumsum(self.positives, axis=-1))

    @property
    def false_positives(self) -> Int64:
        """Rows with label 0 at or above each score, (..., groups)."""
        return np.asarray(np.cumsum(self.negatives, axis=-1))

    @property
    def all_positives(self) -> Int64:
        """Rows with label 1, (...)."""
        return np.asarray(self.positives.sum(axis=-1))

    @property
    def all_negatives(self) -> Int64:
        """Rows with label 0, (...)."""
        return np.asarray(self.negatives.sum(axis=-1))


class Tallier:
    """Labels and scores sorted once, to be counted with any weights.

    Args:
        labels: 0 or 1, (rows,).
        scores: finite, (rows,).

    Raises:
        InputError: shapes differ, or a score is not finite.
        LabelsInvalid: a label is neither 0 nor 1, or only one class is present.
    """

    def __init__(self, labels: ArrayLike, scores: ArrayLike) -> None:
        self.labels, self.scores = checked(labels, scores)
        order = np.argsort(-self.scores, kind="stable")
        ordered = self.scores[order]
        self._starts = np.flatnonzero(np.concatenate(([True], ordered[1:] != ordered[:-1])))
        self._distinct = ordered[self._starts]
        self._order = order
        self._ones = self.labels[order] == 1

    def count(self, weights: Int64 | None = None) -> Tally:
        """The tally of the rows.

        Args:
            weights: count of each row, (draws, rows); default: 1.
        """
        ordered = np.ones(len(self._order), np.int64) if weights is None else weights[..., self._order]
        positives = ordered * self._ones
        negatives = ordered - positives
        if len(self._starts) < len(self._order):
            positives, negatives = (
                np.add.reduceat(counts, self._starts, axis=-1) for counts in (positives, negatives)
            )
        return Tally(self._distinct, positives, negatives)


def tally(labels: ArrayLike, scores: ArrayLike) -> Tally:
    """The tally of some rows.

    Raises:
        InputError: shapes differ, or a score is not finite.
        LabelsInvalid: a label is neither 0 nor 1, or only one class is present.
    """
    return Tallier(labels, scores).count()


def checked(labels: ArrayLike, scores: ArrayLike) -> tuple[Int64, Floats]:
    """Labels and scores as arrays.

    Raises:
        InputError: shapes differ, or a score is not finite; the message names the first such row.
        LabelsInvalid: a label is neither 0 nor 1, or only one class is present.
    """
    label_array, score_array = np.asarray(labels), np.asarray(scores, dtype=np.float64)
    if label_array.ndim != 1 or label_array.shape != score_array.shape:
        raise InputError(
            f"labels have shape {label_array.shape} and scores {score_array.shape}",
            "Give one score per label.",
        )
    if not np.isin(label_array, (0, 1)).all():
        raise LabelsInvalid("labels hold something other than 0 and 1", "Map them to 0 and 1.")
    bad = np.flatnonzero(~np.isfinite(score_array))
    if len(bad):
        raise InputError(
            f"scores hold NaN or infinity, first in row {bad[0] + 1:,}",
            "Score every row, or leave those rows out.",
        )
    ones = int(label_array.sum())
    if ones in (0, len(label_array)):
        held = f"only label {min(ones, 1)}" if len(label_array) else "no rows"
        raise LabelsInvalid(
            f"{len(label_array)} rows hold {held}, one class: nothing can be separated",
            "Give rows with both label 0 and label 1.",
        )
    return label_array.astype(np.int64), score_array


def check_probabilities(scores: Floats) -> None:
    """Refuse scores that are no probabilities.

    Raises:
        InputError: a score is outside [0, 1].
    """
    if scores.min() < 0 or scores.max() > 1:
        raise InputError("scores are outside [0, 1]", "Give probabilities to this metric.")
