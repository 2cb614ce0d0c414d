"""Which label rows a tuning learns from, and how often it looks at each of them."""

import numpy as np
from numpy.typing import NDArray

Int64 = NDArray[np.int64]


def choose_rows(requests: Int64, labels: Int64, most: int, seed: int) -> Int64:
    """Places of the rows to learn from: all of them, or a sample that keeps the rare classes whole.

    Chance is the request's, not the scenario's: scenarios that ask about the same users at the same times
    take the same ones as far as their labels allow, so that few prefixes have to be kept.

    Args:
        requests: which (user, cut-off) each row asks about, [rows].
        labels: class of each row, [rows].
        most: rows wanted at most.
        seed: of the sample.

    Returns:
        int64 [rows kept], ascending.
    """
    if len(requests) <= most:
        return np.arange(len(requests))
    place = np.random.default_rng(seed).permutation(int(requests.max()) + 1)[requests]
    quota = _quotas(np.bincount(labels), most)
    rows = [np.flatnonzero(labels == k) for k in range(len(quota))]
    kept = [some[np.argsort(place[some], kind="stable")[:n]] for some, n in zip(rows, quota, strict=True)]
    return np.sort(np.concatenate(kept))


def even_chances(labels: Int64) -> NDArray[np.float64]:
    """The chance of each row to be drawn, so that a batch holds as much of each class, [rows].

    Args:
        labels: class of each row, [rows].
    """
    counts = np.bincount(labels)
    chances: NDArray[np.float64] = 1.0 / counts[labels] / np.count_nonzero(counts)
    return chances


def _quotas(counts: Int64, most: int) -> Int64:
    """How many rows of each class: the rarest whole while there is room for as many of the others."""
    quota = np.zeros(len(counts), np.int64)
    left = most
    order = np.argsort(counts, kind="stable")
    for number, k in enumerate(order.tolist()):
        quota[k] = min(int(counts[k]), left // (len(order) - number))
        left -= int(quota[k])
    return quota
