"""Baselines of a head on the same rows: a linear probe, and the best head on aggregates alone."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from qanchor.heads.fit import FitOptions, FitRows, FitTask, FittedHead, fit_head
from qanchor.heads.frame import HeadFrame
from qanchor.heads.spec import FeatureSpec, Group
from qanchor.linear_probe import LinearProbe, ProbeRows, fit_probe
from qanchor.workspace import Workspace

Scores = NDArray[np.float64]


def fit_task(frame: HeadFrame, spec: FeatureSpec) -> FitTask:
    """The training and validation rows of a frame as matrices of a spec's columns."""
    train, valid = (
        FitRows(spec.matrix(frame.table_of(part)), frame.labels[frame.rows(part)])
        for part in ("train", "valid")
    )
    return FitTask(train, valid, spec.names, tuple(spec.categories))


def fit_groups(
    frame: HeadFrame, groups: Sequence[Group], workspace: Workspace, options: FitOptions
) -> tuple[FittedHead, FeatureSpec]:
    """A boosted head on some feature groups, with the columns it reads.

    Raises:
        LabelsInvalid: training or validation rows hold one class.
        InputError: no feature varies over the training rows.
    """
    spec = frame.spec(groups, workspace)
    return fit_head(fit_task(frame, spec), options), spec


def probe_scores(frame: HeadFrame, workspace: Workspace) -> Scores | None:
    """Every row's score by a linear probe on the embedding; None where there are no vectors."""
    if frame.without_embedding == frame.table.num_rows:
        return None
    spec = frame.spec(("embedding",), workspace)
    return _linear(fit_task(frame, spec), "standard").predict(spec.matrix(frame.table))


def aggregate_scores(frame: HeadFrame, workspace: Workspace, options: FitOptions) -> Scores | None:
    """Every row's score by the better of a boosted and a linear head on aggregates alone.

    The validation rows decide which is better. None where no aggregate varies over the training rows. The
    boosted head is a single one without a search, whatever the options.
    """
    spec = frame.spec(("activity",), workspace)
    if not frame.varies(spec):
        return None
    task = fit_task(frame, spec)
    boosted = fit_head(task, replace(options, seeds=1, search_seconds=0.0))
    linear = _linear(task, "quantile")
    better = boosted if boosted.valid_auc >= linear.valid_auc else linear
    return better.predict(spec.matrix(frame.table))


def _linear(task: FitTask, scale: Literal["standard", "quantile"]) -> LinearProbe:
    train, valid = task.train, task.valid
    return fit_probe(ProbeRows(train.features, train.labels, valid.features, valid.labels), scale)
