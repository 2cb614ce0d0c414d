"""Exact search over all vectors or some of them, block by block."""

import numpy as np

from qanchor.storage.vectors.metadata import Rows, Vectors
from qanchor.storage.vectors.native import load_faiss

# Some rows are copied together this many at a time, so that the memory of one copy serves for the next.
# Where more are wanted, longer blocks save merging.
_BLOCK_ROWS = 32_768
# Scores kept at a time, so that a thousand queries for fifty thousand users do not fill the memory.
_MOST_SCORES = 32_000_000


def exact_search(matrix: Vectors, queries: Vectors, k: int, rows: Rows | None = None) -> tuple[Vectors, Rows]:
    """The k rows of greatest inner product for each query, best first.

    Args:
        matrix: float32 [rows, width]; may be mapped from a file.
        queries: float32 [queries, width].
        k: rows wanted.
        rows: positions int64 that may be found, ascending; None: all.

    Returns:
        Inner products float32 [queries, k] (-inf where there are fewer) and positions int64 (-1 there).
    """
    each = max(1, _MOST_SCORES // max(1, 2 * k))
    parts = [_search(matrix, queries[at : at + each], k, rows) for at in range(0, len(queries), each)]
    if not parts:
        return np.empty((0, k), np.float32), np.empty((0, k), np.int64)
    return np.concatenate([s for s, _ in parts]), np.concatenate([r for _, r in parts])


def _search(matrix: Vectors, queries: Vectors, k: int, rows: Rows | None) -> tuple[Vectors, Rows]:
    best = np.full((len(queries), k), -np.inf, np.float32), np.full((len(queries), k), -1, np.int64)
    if rows is None:
        return merge(best, _nearest(matrix, queries, k), k) if len(matrix) else best
    block = max(_BLOCK_ROWS, 2 * k)
    for start in range(0, len(rows), block):
        some = rows[start : start + block]
        # Not by `take`: a mapped matrix may lie at an odd address, and all of it would be copied first.
        scores, found = _nearest(matrix[some], queries, k)
        best = merge(best, (scores, np.where(found < 0, -1, some[found])), k)
    return best


def _nearest(matrix: Vectors, queries: Vectors, k: int) -> tuple[Vectors, Rows]:
    faiss = load_faiss()
    scores, found = faiss.knn(queries, matrix, min(k, len(matrix)), faiss.METRIC_INNER_PRODUCT)
    return np.where(found < 0, -np.inf, scores).astype(np.float32), found


def merge(one: tuple[Vectors, Rows], other: tuple[Vectors, Rows], k: int) -> tuple[Vectors, Rows]:
    """The k best of two lists of scores [queries, any] and rows, best first; filled up with -inf and -1."""
    scores = np.concatenate([one[0], other[0]], axis=1)
    rows = np.concatenate([one[1], other[1]], axis=1)
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(scores, order, 1), np.take_along_axis(rows, order, 1)
