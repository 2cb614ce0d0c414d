"""Figures by segment of the users, and which segments fare differently from the rest."""

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
        feature: its name.
        value: of the rows; values beyond the twelve most frequent are one segment.
        rows: how many.
        positives: rows with label 1.
        rate: share of label 1.
        mean_score: mean probability.
        auc: area within the segment; None where too few rows of a class.
        auc_gap: that area less the other rows' one; None where either is unknown.
        calibration_gap: mean probability less the rate; None where too few rows.
        flags: `ranks worse`, `ranks better`, `scored too high`, `scored too low`, where the interval of
            the gap leaves 0 out, widened for the number of segments looked at.
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

    The intervals of the gaps share the error out over all segments (Bonferroni), so that a table in which
    all segments fare alike has no flag in `confidence` of the cases.

    Args:
        labels: 0 or 1.
        probabilities: of label 1.
        features: values by name, one for each row; None is missing.
        confidence: of the whole table.
        fewest: rows of each class that an area needs.

    Raises:
        LabelsInvalid: only one class is present.
        InputError: a score is no probability.
    """
    truth, chances = checked(labels, probabilities)
    check_probabilities(chances)
    members = {
        (feature, value): rows
        for feature, values in features.items()
        for value, rows in _members(values).items()
    }
    each = 1 - (1 - confidence) / max(len(members), 1)
    return [
        _segment(name, rows, (truth, chances), (confidence, each), fewest) for name, rows in members.items()
    ]


def _members(values: Sequence[str | None]) -> dict[str, NDArray[np.bool_]]:
    """Which rows hold each value, the most frequent values first."""
    texts = np.array([MISSING if value is None else value for value in values], dtype=object)
    found, place, counts = np.unique(texts, return_inverse=True, return_counts=True)
    order = np.argsort(-counts, kind="stable")
    members = {str(found[code]): place == code for code in order[:_MOST_VALUES]}
    if len(order) > _MOST_VALUES:
        members[OTHER] = np.isin(place, order[_MOST_VALUES:])
    return members


def _segment(
    name: tuple[str, str],
    rows: NDArray[np.bool_],
    all_rows: tuple[NDArray[np.int64], Floats],
    confidence: tuple[float, float],
    fewest: int,
) -> Segment:
    truth, chances = all_rows
    reach = normal_quantile(confidence[1])
    held, mean = truth[rows], chances[rows]
    # The spread that honest probabilities would have: that of few rows with one label would be none.
    error = math.sqrt(float((mean * (1 - mean)).sum())) / len(mean)
    enough = len(held) >= 2 * fewest
    calibration = _around(float((mean - held).mean()), reach * error) if enough else None
    inside, outside = (_area(truth[r], chances[r], confidence[0], fewest) for r in (rows, ~rows))
    gap = None
    if inside is not None and outside is not None:
        # Different rows: the variances add up.
        spread = math.hypot(_error(inside, confidence[0]), _error(outside, confidence[0]))
        gap = _around(inside.value - outside.value, reach * spread)
    flags = [words for words, found in _judge(gap, calibration) if found]
    return Segment(
        feature=name[0],
        value=name[1],
        rows=len(held),
        positives=int(held.sum()),
        rate=float(held.mean()),
        mean_score=float(mean.mean()),
        auc=inside,
        auc_gap=gap,
        calibration_gap=calibration,
        flags=tuple(flags),
    )


def _judge(gap: Interval | None, calibration: Interval | None) -> list[tuple[str, bool]]:
    return [
        ("ranks worse", gap is not None and gap.high < 0),
        ("ranks better", gap is not None and gap.low > 0),
        ("scored too high", calibration is not None and calibration.low > 0),
        ("scored too low", calibration is not None and calibration.high < 0),
    ]


def _area(truth: NDArray[np.int64], chances: Floats, confidence: float, fewest: int) -> Interval | None:
    ones = int(truth.sum())
    if min(ones, len(truth) - ones) < max(fewest, 2):
        return None
    return auc_interval(truth, chances, confidence)


def _error(area: Interval, confidence: float) -> float:
    # The wider side: an interval may be cut at 0 or 1.
    return max(area.high - area.value, area.value - area.low) / normal_quantile(confidence)


def _around(value: float, reach: float) -> Interval:
    return Interval(value, value - reach, value + reach)
