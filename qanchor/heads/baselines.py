"""What a head has to beat on the same rows: a linear probe, and the best head on aggregates alone."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from qanchor import metrics as measure
from qanchor.heads.fit import FitOptions, FitRows, FittedHead, fit_head
from qanchor.heads.frame import FeatureSpec, Group, HeadFrame
from qanchor.linear_probe import LinearProbe, ProbeRows, fit_probe
from qanchor.workspace import Workspace

Scores = NDArray[np.float64]


def fit_groups(
    frame: HeadFrame, groups: Sequence[Group], workspace: Workspace, options: FitOptions
) -> tuple[FittedHead, FeatureSpec]:
    """A boosted head on some feature groups, with the columns it reads.

    Raises:
        LabelsInvalid: training or validation rows hold one class.
        InputError: no feature varies over the training rows.
    """
    spec = frame.spec(groups, workspace)
    train, valid = _rows(frame, spec, "train"), _rows(frame, spec, "valid")
    return fit_head(train, valid, spec.names, list(spec.categories), options), spec


def probe_scores(frame: HeadFrame, workspace: Workspace) -> Scores | None:
    """Every row's score by a linear probe on the embedding; None where there are no vectors."""
    if frame.without_embedding == frame.table.num_rows:
        return None
    spec = frame.spec(("embedding",), workspace)
    return _linear(frame, spec, "standard").predict(spec.matrix(frame.table))


def aggregate_scores(frame: HeadFrame, workspace: Workspace, options: FitOptions) -> Scores | None:
    """Every row's score by the better of a boosted and a linear head on aggregates alone.

    The validation rows say which is better. None where no aggregate varies over the training rows.
    """
    spec = frame.spec(("activity",), workspace)
    if not frame.varies(spec):
        return None
    boosted, _ = fit_groups(frame, ("activity",), workspace, options)
    linear = _linear(frame, spec, "quantile")
    better = boosted if boosted.valid_auc >= linear.valid_auc else linear
    return better.predict(spec.matrix(frame.table))


def _rows(frame: HeadFrame, spec: FeatureSpec, part: str) -> FitRows:
    chosen = frame.rows(part)
    return FitRows(spec.matrix(frame.table.filter(pa.array(chosen))), frame.labels[chosen])


def _linear(frame: HeadFrame, spec: FeatureSpec, scale: Literal["standard", "quantile"]) -> LinearProbe:
    train, valid = _rows(frame, spec, "train"), _rows(frame, spec, "valid")
    return fit_probe(ProbeRows(train.features, train.labels, valid.features, valid.labels), scale)


def _resampling(rows: int) -> measure.Bootstrap:
    """Fewer draws of many rows: their intervals are narrow, and every draw sorts them all."""
    return measure.Bootstrap(draws=int(np.clip(4_000_000 // rows, 100, 500)))


def figures(labels: NDArray[np.int64], scores: Scores) -> dict[str, float]:
    """Every figure of one scorer; the area with its 95% bootstrap interval.

    Raises:
        LabelsInvalid: only one class is present.
    """
    interval = measure.bootstrap_interval(measure.roc_auc, labels, scores, options=_resampling(len(labels)))
    separation = measure.ks(labels, scores)
    return {
        "auc": interval.value,
        "auc_low": interval.low,
        "auc_high": interval.high,
        "ks": separation.statistic,
        "ks_threshold": min(separation.threshold, 1.0),
        "pr_auc": measure.pr_auc(labels, scores),
        "lift_5": measure.lift_at(labels, scores, 0.05),
        "lift_10": measure.lift_at(labels, scores, 0.10),
        "gain_10": measure.gain_at(labels, scores, 0.10),
        "brier": measure.brier(labels, scores),
        "log_loss": measure.log_loss(labels, scores),
        "ece": measure.expected_calibration_error(labels, scores),
        "rows": float(len(labels)),
        "positives": float(labels.sum()),
    }


def compare(labels: NDArray[np.int64], scores: dict[str, Scores]) -> dict[str, dict[str, float]]:
    """Figures of the head and of each baseline, and how far the head's area lies above theirs.

    Args:
        labels: of the test rows.
        scores: `head` and any baselines, on the same rows.

    Raises:
        LabelsInvalid: only one class is present.
    """
    found = {name: figures(labels, values) for name, values in scores.items()}
    for name in found.keys() - {"head"}:
        gain = measure.bootstrap_interval(
            measure.roc_auc, labels, scores["head"], scores[name], _resampling(len(labels))
        )
        found[name] |= {"head_gain": gain.value, "head_gain_low": gain.low, "head_gain_high": gain.high}
    return found
