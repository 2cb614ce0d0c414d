"""Figures of a head and its baselines, as cards and reports show them."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qanchor import metrics as measure
from qanchor.metrics import Bootstrap

Scores = NDArray[np.float64]
Labels = NDArray[np.int64]


def resampling(rows: int) -> Bootstrap:
    """Fewer draws of many rows: their intervals are narrow, and every draw counts them all."""
    return Bootstrap(draws=int(np.clip(4_000_000 // rows, 200, 500)))


def figures(labels: Labels, scores: Scores) -> dict[str, float]:
    """Every figure of one scorer, each with the ends of its 95% bootstrap interval as NAME_low and NAME_high.

    Raises:
        LabelsInvalid: only one class is present.
        InputError: a score is no probability.
    """
    row: dict[str, float] = {}
    intervals = measure.bootstrap_intervals(
        list(measure.FIGURES), labels, scores, options=resampling(len(labels))
    )
    for name, interval in intervals.items():
        row |= {name: interval.value, f"{name}_low": interval.low, f"{name}_high": interval.high}
    # Where nothing separates the classes the threshold is infinite, which JSON cannot hold.
    row["ks_threshold"] = min(measure.ks(labels, scores).threshold, 1.0)
    return row | {"rows": float(len(labels)), "positives": float(labels.sum())}


def compare_scorers(labels: Labels, scores: Mapping[str, Scores]) -> dict[str, dict[str, float]]:
    """Figures of the head and of each baseline, and how far the head's area is above theirs.

    Args:
        labels: labels of the test rows.
        scores: scores of `head` and any baselines, on the same rows.

    Returns:
        Figures by scorer; a baseline's `head_gain` is the head's area minus its own, with DeLong's interval
        and p-value, where there are two rows of each label.

    Raises:
        LabelsInvalid: only one class is present.
    """
    rows = {name: figures(labels, values) for name, values in scores.items()}
    ones = int(labels.sum())
    for name in rows.keys() - {"head"}:
        if min(ones, len(labels) - ones) > 1:
            test = measure.compare_auc(labels, scores["head"], scores[name])
            rows[name] |= {
                "head_gain": test.difference.value,
                "head_gain_low": test.difference.low,
                "head_gain_high": test.difference.high,
                "head_gain_p": test.p_value,
            }
    return rows


def drift(part: NDArray[np.str_], scores: Scores) -> dict[str, float]:
    """Population stability index of the head's scores from one part to another.

    Training rows are scored by what was fitted on them, so a small shift from train to test is expected;
    from valid to test it is not.

    Args:
        part: train, valid or test, (rows,).
        scores: scores of the rows.
    """
    pairs = {"psi_train_test": ("train", "test"), "psi_valid_test": ("valid", "test")}
    return {
        name: measure.psi(scores[part == first], scores[part == then])
        for name, (first, then) in pairs.items()
    }


def segment_rows(
    labels: Labels, scores: Scores, features: Mapping[str, list[str | None]]
) -> list[dict[str, Any]]:
    """The head's figures by value of each categorical profile feature, as JSON rows.

    Args:
        labels: labels of the test rows.
        scores: scores of the head.
        features: values of each row, by feature.

    Raises:
        LabelsInvalid: only one class is present.
    """
    rows = []
    for segment in measure.compare_segments(labels, scores, features):
        row: dict[str, Any] = {
            "feature": segment.feature,
            "value": segment.value,
            "rows": segment.rows,
            "positives": segment.positives,
            "rate": segment.rate,
            "mean_score": segment.mean_score,
        }
        for name in ("auc", "auc_gap", "calibration_gap"):
            interval = getattr(segment, name)
            row |= {
                name: interval.value if interval else None,
                f"{name}_low": interval.low if interval else None,
                f"{name}_high": interval.high if interval else None,
            }
        rows.append(row | {"flags": list(segment.flags)})
    return rows
