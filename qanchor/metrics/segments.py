"""Figures by segment of the users, and the segments that differ from the rest."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qanchor.metrics.delong import auc_interval, normal_quantile
from qanchor.metrics.resampling import Interval
from qanchor.metrics.tally import Floats, check_probabilities, checked

MISSING, OTHER = "(missing)", "(other)"
_MOST_VALUES = 12


@dataclass(frozen=True)
class Segment:
    """The rows that hold one value of a feature, compared with all other rows.

    Args:
        feature: name of the feature.
        value: value of the rows; values beyond the twelve most frequent are one segment.
        rows: number of rows.
        positives: number of rows with label 1.
        rate: share of label 1.
        mean_score: mean probability.
        auc: area within the segment; None where a class has too few rows.
        auc_gap: that area minus the other rows' one; None where either is unknown.
        calibration_gap: mean probability minus the rate; None where there are too few rows.
        flags: `ranks worse`, `ranks better`, `scored too high`, `scored too low`, where the interval of
            the gap excludes 0, widened for the number of segments.
    """

    feature: str
    value: str
    rows: int
    positives: int
    rate: float
    mean_score: float
    auc: Interval | None
    auc_gap: Interval | None
    calibration_gap: Interval | None
    flags: tuple[str, ...]


def compare_segments(
    labels: ArrayLike,
    probabilities: ArrayLike,
    features: Mapping[str, Sequence[str | None]],
    confidence: float = 0.95,
    fewest: int = 10,
) -> list[Segment]:
    """A row for every value of every feature.

    The intervals of the gaps divide the error over all segments (Bonferroni), so that a table without real
    differences has no flag in `confidence` of the cases.

    Args:
        labels: 0 or 1.
        probabilities: probability of label 1.
        features: value of each row, by feature; None is missing.
        confidence: confidence of the whole table.
        fewest: least number of rows of each class for an area.

    Raises:
        LabelsInvalid: only one class is present.
        InputError: a score is outside [0, 1].
    """
    truth, chances = checked(labels, probabilities)
    check_probabilities(chances)
    members = {
        (feature, value): rows
        for feature, values in features.items()
        for value, rows in _members(values).items()
    }
    each = 1 - (1 - confidence) / max(len(members), 1)
    comparison = _Comparison(truth, chances, confidence, normal_quantile(each), fewest)
    return [comparison.segment(feature, value, rows) for (feature, value), rows in members.items()]


def _members(values: Sequence[str | None]) -> dict[str, NDArray[np.bool_]]:
    """Which rows hold each value, the most frequent values first."""
    texts = np.array([MISSING if value is None else value for value in values], dtype=object)
    distinct, code, counts = np.unique(texts, return_inverse=True, return_counts=True)
    order = np.argsort(-counts, kind="stable")
    members = {str(distinct[number]): code == number for number in order[:_MOST_VALUES]}
    if len(order) > _MOST_VALUES:
        members[OTHER] = np.isin(code, order[_MOST_VALUES:])
    return members


@dataclass(frozen=True)
class _Comparison:
    """The rows of all segments, and how their intervals are made."""

    truth: NDArray[np.int64]
    chances: Floats
    confidence: float
    reach: float
    fewest: int

    def segment(self, feature: str, value: str, rows: NDArray[np.bool_]) -> Segment:
        """The rows of a mask, bool [rows], compared with all other rows."""
        labels, probabilities = self.truth[rows], self.chances[rows]
        # The spread that honest probabilities would have: that of few rows with one label would be none.
        error = math.sqrt(float((probabilities * (1 - probabilities)).sum())) / len(probabilities)
        enough = len(labels) >= 2 * self.fewest
        calibration = (
            _interval(float((probabilities - labels).mean()), self.reach * error) if enough else None
        )
        inside, outside = (self._area(part) for part in (rows, ~rows))
        gap = None
        if inside is not None and outside is not None:
            # Different rows: the variances add up.
            spread = math.hypot(self._error(inside), self._error(outside))
            gap = _interval(inside.value - outside.value, self.reach * spread)
        flags = (
            ("ranks worse", gap is not None and gap.sign < 0),
            ("ranks better", gap is not None and gap.sign > 0),
            ("scored too high", calibration is not None and calibration.sign > 0),
            ("scored too low", calibration is not None and calibration.sign < 0),
        )
        return Segment(
            feature=feature,
            value=value,
            rows=len(labels),
            positives=int(labels.sum()),
            rate=float(labels.mean()),
            mean_score=float(probabilities.mean()),
            auc=inside,
            auc_gap=gap,
            calibration_gap=calibration,
            flags=tuple(flag for flag, applies in flags if applies),
        )

    def _area(self, rows: NDArray[np.bool_]) -> Interval | None:
        truth = self.truth[rows]
        ones = int(truth.sum())
        if min(ones, len(truth) - ones) < max(self.fewest, 2):
            return None
        return auc_interval(truth, self.chances[rows], self.confidence)

    def _error(self, area: Interval) -> float:
        # The wider side: an interval may be cut at 0 or 1.
        return max(area.high - area.value, area.value - area.low) / normal_quantile(self.confidence)


def _interval(value: float, reach: float) -> Interval:
    return Interval(value, value - reach, value + reach)
