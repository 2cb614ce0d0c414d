"""Exact search over all vectors or some of them, block by block."""

import numpy as np

from qanchor.storage.vectors.metadata import Rows, Vectors
from qanchor.storage.vectors.native import load_faiss

# Copied vectors of one block stay in a core's share of the cache hierarchy's reach: 64 MiB at 128 dimensions.
_BLOCK_ROWS = 131_072
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
    faiss = load_faiss()
    total = len(matrix) if rows is None else len(rows)
    # All rows are read where they lie; some are copied together, a block at a time.
    block = max(1, total) if rows is None else _BLOCK_ROWS
    best = np.full((len(queries), k), -np.inf, np.float32), np.full((len(queries), k), -1, np.int64)
    for start in range(0, total, block):
        some = None if rows is None else rows[start : start + block]
        part = matrix[start : start + block] if some is None else matrix[some]
        scores, found = faiss.knn(queries, part, min(k, len(part)), faiss.METRIC_INNER_PRODUCT)
        positions = found + start if some is None else np.where(found < 0, -1, some[found])
        best = merge(best, (np.where(found < 0, -np.inf, scores).astype(np.float32), positions), k)
    return best


def merge(one: tuple[Vectors, Rows], other: tuple[Vectors, Rows], k: int) -> tuple[Vectors, Rows]:
    """The k best of two lists of scores [queries, any] and rows, best first; filled up with -inf and -1."""
    scores = np.concatenate([one[0], other[0]], axis=1)
    rows = np.concatenate([one[1], other[1]], axis=1)
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(scores, order, 1), np.take_along_axis(rows, order, 1)
