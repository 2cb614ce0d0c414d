"""Reason codes: how far each feature, and each group of features, moves a score."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from qanchor.heads.fit import Boosters
from qanchor.heads.spec import FeatureSpec
from qanchor.workspace import Workspace

EMBEDDING, PROFILE = "embedding", "profile"
_MOST_ROWS, _TOP_FEATURES = 400, 20


@dataclass(frozen=True)
class Contributions:
    """The contributions to the raw scores of some rows.

    Args:
        base: raw score before any feature, (rows,).
        features: SHAP values by feature name, (rows,) each.
        groups: their sums by group: embedding, activity:MODALITY, profile. Base and groups add up to the
            raw score.
    """

    base: NDArray[np.float64]
    features: Mapping[str, NDArray[np.float64]]
    groups: Mapping[str, NDArray[np.float64]]

    @property
    def raw(self) -> NDArray[np.float64]:
        """The raw scores, sums of the base and all groups, (rows,)."""
        return np.asarray(self.base + np.sum(list(self.groups.values()), axis=0))


def group_of(feature: str, workspace: Workspace) -> str:
    """The group that a column of a head's matrix belongs to."""
    if feature in workspace.profile_columns:
        return PROFILE
    # The longest name first: a modality's name may begin with another's.
    for modality in sorted(workspace.modalities, key=len, reverse=True):
        if feature.startswith(f"act_{modality}_"):
            return f"activity:{modality}"
    return EMBEDDING


def contributions(
    boosters: Boosters, spec: FeatureSpec, table: pa.Table, workspace: Workspace
) -> Contributions:
    """The contributions to each row's raw score.

    Args:
        boosters: boosters of the head.
        spec: columns that it reads.
        table: feature rows.
        workspace: workspace with the modalities and profile columns.
    """
    parts = boosters.contributions(spec.matrix(table))
    features = {name: parts[:, number] for number, name in enumerate(spec.names)}
    groups: dict[str, NDArray[np.float64]] = {}
    for name, values in features.items():
        group = group_of(name, workspace)
        groups[group] = groups.get(group, 0.0) + values
    return Contributions(parts[:, -1], features, groups)


def mean_contributions(
    boosters: Boosters, spec: FeatureSpec, table: pa.Table, workspace: Workspace
) -> dict[str, dict[str, float]]:
    """Mean absolute contributions over up to 400 rows spread over a table, for the card.

    Returns:
        `groups`: mean of each group's sum; `features`: mean of the twenty largest features.
    """
    rows = np.unique(np.linspace(0, table.num_rows - 1, min(table.num_rows, _MOST_ROWS)).astype(np.int64))
    sample = contributions(boosters, spec, table.take(pa.array(rows)), workspace)
    groups = {name: float(np.abs(values).mean()) for name, values in sample.groups.items()}
    features = {name: float(np.abs(values).mean()) for name, values in sample.features.items()}
    top = sorted(features, key=lambda name: -features[name])[:_TOP_FEATURES]
    return {
        "groups": dict(sorted(groups.items(), key=lambda item: -item[1])),
        "features": {name: features[name] for name in top},
    }
