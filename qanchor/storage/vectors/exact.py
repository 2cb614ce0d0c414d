"""faiss, loaded by the call that needs it, and exact search over all vectors or some of them."""

from typing import Any

import numpy as np

from qanchor.storage.vectors.metadata import Rows, Vectors

# Rows copied together, so that the memory of one copy serves for the next; for a large k longer blocks save
# merging.
_BLOCK_ROWS = 32_768
# Scores kept at a time, so that a thousand queries for fifty thousand users do not fill the memory.
_MOST_SCORES = 32_000_000


def load_faiss() -> Any:
    """The module; untyped on purpose, as its own stubs lack the search parameters."""
    import faiss

    return faiss


def numpy_view(flat: Any) -> Vectors:
    """The vectors of a flat faiss index, float32 [rows, width], not copied: the index must outlive them."""
    view: Vectors = load_faiss().rev_swig_ptr(flat.get_xb(), flat.ntotal * flat.d)
    return view.reshape(flat.ntotal, flat.d)


def exact_search(matrix: Vectors, queries: Vectors, k: int, rows: Rows | None = None) -> tuple[Vectors, Rows]:
    """The k rows of greatest inner product for each query, best first.

    Args:
        matrix: float32 [rows, width]; may be mapped from a file.
        queries: float32 [queries, width].
        k: number of rows for each query.
        rows: int64, ascending, rows to search among; None: all.

    Returns:
        Inner products float32 [queries, k] (-inf where there are fewer) and rows int64 (-1 there).
    """
    batch = max(1, _MOST_SCORES // max(1, 2 * k))
    parts = [_search(matrix, queries[at : at + batch], k, rows) for at in range(0, len(queries), batch)]
    if not parts:
        return np.empty((0, k), np.float32), np.empty((0, k), np.int64)
    return np.concatenate([s for s, _ in parts]), np.concatenate([r for _, r in parts])


def _search(matrix: Vectors, queries: Vectors, k: int, rows: Rows | None) -> tuple[Vectors, Rows]:
    best = np.full((len(queries), k), -np.inf, np.float32), np.full((len(queries), k), -1, np.int64)
    if rows is None:
        return merge(*best, *_nearest(matrix, queries, k), k) if len(matrix) else best
    block_rows = max(_BLOCK_ROWS, 2 * k)
    for start in range(0, len(rows), block_rows):
        block = rows[start : start + block_rows]
        # Not by `take`: a mapped matrix may begin at an odd address, and all of it would be copied first.
        scores, nearest = _nearest(matrix[block], queries, k)
        best = merge(*best, scores, np.where(nearest < 0, -1, block[nearest]), k)
    return best


def _nearest(matrix: Vectors, queries: Vectors, k: int) -> tuple[Vectors, Rows]:
    faiss = load_faiss()
    scores, rows = faiss.knn(queries, matrix, min(k, len(matrix)), faiss.METRIC_INNER_PRODUCT)
    return np.where(rows < 0, -np.inf, scores).astype(np.float32), rows


def merge(scores: Vectors, rows: Rows, more_scores: Vectors, more_rows: Rows, k: int) -> tuple[Vectors, Rows]:
    """The k best of two lists of results for each query, best first.

    Args:
        scores: float32 [queries, any]; -inf where there is no result.
        rows: int64, of the same shape; -1 where there is no result.
        more_scores: scores of the second list.
        more_rows: rows of the second list.
        k: length of the merged lists.
    """
    scores = np.concatenate([scores, more_scores], axis=1)
    rows = np.concatenate([rows, more_rows], axis=1)
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(scores, order, 1), np.take_along_axis(rows, order, 1)
