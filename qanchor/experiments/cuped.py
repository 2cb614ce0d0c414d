"""CUPED: removal of the variance that covariates from before the experiment explain."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qanchor.errors import InputError

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Adjusted:
    """Outcomes with a smaller variance and the same expected difference between the arms.

    Args:
        outcomes: adjusted outcomes, float64 (users,), with unchanged mean.
        weights: weights of the covariates, then of the indicators of missing ones, (columns,).
        variance_cut: share of the variance within arms that was removed, in [0, 1].
    """

    outcomes: Floats
    weights: Floats
    variance_cut: float


def adjust(outcomes: ArrayLike, covariates: ArrayLike, arms: ArrayLike) -> Adjusted:
    """Outcomes minus their prediction from the covariates.

    The weights are those of a regression within arms, and so unaffected by the treatment. A missing covariate
    (NaN), such as that of a new user, is filled with the mean, and an indicator of missing is added.

    Args:
        outcomes: outcome of each user, (users,).
        covariates: values from before the experiment, (users,) or (users, covariates); NaN where missing.
        arms: index of each user's arm, (users,).

    Raises:
        InputError: lengths differ, or a value is infinite.

    Source: Deng, Xu, Kohavi and Walker, WSDM 2013; several covariates: by regression.
    """
    values = np.asarray(outcomes, dtype=np.float64)
    raw = np.asarray(covariates, dtype=np.float64)
    raw = raw[:, None] if raw.ndim == 1 else raw
    groups = np.asarray(arms)
    if not len(values) == len(raw) == len(groups):
        raise InputError("outcomes, covariates and arms differ in length", "Give one of each per user.")
    if np.isinf(raw).any() or not np.isfinite(values).all():
        raise InputError("an outcome or covariate is not finite", "Remove or fill missing values.")
    columns = _filled(raw)
    centred = columns - columns.mean(axis=0)
    within_x, within_y = _within(columns, groups), _within(values[:, None], groups)[:, 0]
    weights, *_ = np.linalg.lstsq(within_x, within_y, rcond=None)
    # Equal outcomes differ from their mean by rounding alone, of which no share is explained.
    before = (
        0.0 if np.allclose(within_y, 0, atol=1e-12 * np.abs(values).max()) else float(within_y @ within_y)
    )
    after = float(((within_y - within_x @ weights) ** 2).sum())
    cut = 1 - after / before if before > 0 else 0.0
    return Adjusted(values - centred @ weights, weights.astype(np.float64), max(0.0, cut))


def _filled(covariates: Floats) -> Floats:
    """Covariates with the mean for missing values, then the indicators of missing values."""
    missing = np.isnan(covariates)
    means = np.where(missing, 0.0, covariates).sum(axis=0) / np.maximum((~missing).sum(axis=0), 1)
    indicators = missing[:, missing.any(axis=0)].astype(np.float64)
    return np.hstack([np.where(missing, means, covariates), indicators])


def _within(columns: Floats, groups: NDArray[np.generic]) -> Floats:
    """Columns minus the mean of the user's arm."""
    _, arms = np.unique(groups, return_inverse=True)
    counts = np.bincount(arms)
    means = np.stack([np.bincount(arms, weights=column) / counts for column in columns.T], axis=1)
    centred: Floats = columns - means[arms]
    return centred
