"""The shift between two distributions of scores."""

import numpy as np
from numpy.typing import ArrayLike

from qanchor.errors import InputError
from qanchor.metrics.tally import Floats

# The customary floor of an empty bin's share; else one empty bin would be infinite drift.
SMALLEST_SHARE = 1e-4


def psi(expected: ArrayLike, actual: ArrayLike, bins: int = 10) -> float:
    """Population stability index: how far `actual` moved from `expected`, 0 where not at all.

    Args:
        expected: the reference; its quantiles are the bins.
        actual: values to compare with the reference.
        bins: number of quantile bins; equal values share one.

    Raises:
        InputError: one of them is empty or not finite.
    """
    reference, current = np.asarray(expected, dtype=np.float64), np.asarray(actual, dtype=np.float64)
    for values in (reference, current):
        if not len(values) or not np.isfinite(values).all():
            raise InputError("psi needs finite values on both sides", "Leave out missing scores.")
    edges = np.unique(np.quantile(reference, np.linspace(0, 1, bins + 1)))[1:-1]
    shares = [_shares(values, edges) for values in (reference, current)]
    return float(np.sum((shares[1] - shares[0]) * np.log(shares[1] / shares[0])))


def _shares(values: Floats, edges: Floats) -> Floats:
    counts = np.bincount(np.searchsorted(edges, values, side="left"), minlength=len(edges) + 1)
    floored = np.maximum(counts / len(values), SMALLEST_SHARE)
    result: Floats = floored / floored.sum()
    return result
