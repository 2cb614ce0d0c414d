"""Search effort: tuned on some held-out queries, measured on others, against exact search."""

import math
from dataclasses import dataclass, replace

import numpy as np

from qanchor.storage.vectors.exact import exact_search, load_faiss
from qanchor.storage.vectors.metadata import RECALL_AT, Mask, Rows, SegmentMetadata, Vectors
from qanchor.storage.vectors.segment import Segment

# Share of the allowed misses that tuning leaves unused, so that other queries reach the target too.
_MARGIN = 0.15
_MOST_CANDIDATES = 64
_EFFORTS = (64, 128, 256, 512, 1024, 2048, 4096)
_MORE, _ATTEMPTS = 1.15, 16


@dataclass(frozen=True)
class Exam:
    """Queries with their exact answers.

    Args:
        queries: float32 [queries, width], unit vectors.
        itself: int64 [queries], the row of a query that is a user, which must not count; -1: it is none.
        neighbours: int64 [queries, 100], the true nearest rows, `itself` left out.
    """

    queries: Vectors
    itself: Rows
    neighbours: Rows

    def recall(self, segment: Segment) -> float:
        """The share of the true neighbours that a fast search finds, for the harder kind of query."""
        rows = segment.approximate(self.queries, self.neighbours.shape[1] + 1)[1]
        rows = _without(rows, self.itself)
        recalls = np.array([np.isin(a, b).mean() for a, b in zip(self.neighbours, rows, strict=True)])
        return float(min(recalls[kind].mean() for kind in self.kinds()))

    def kinds(self) -> list[Mask]:
        """Which queries are users and which are between two, bool [queries] each."""
        return [kind for kind in (self.itself >= 0, self.itself < 0) if kind.any()]


def set_exam(matrix: Vectors, queries: int, seed: int) -> Exam:
    """Queries like those of a search: users (left out of their own neighbours), and points between two users,
    as the centre of a few seeds is.

    Args:
        matrix: float32 [rows, width].
        queries: number of queries.
        seed: seed of the draw.
    """
    rows = len(matrix)
    random = np.random.default_rng(seed)
    drawn = random.integers(0, rows, queries)
    points = matrix[drawn].copy()
    between = np.arange(queries) % 2 == 1
    points[between] += 0.5 * matrix[random.integers(0, rows, int(between.sum()))]
    points /= np.maximum(np.linalg.norm(points, axis=1, keepdims=True), 1e-12)
    itself = np.where(between, -1, drawn)
    nearest = exact_search(matrix, points, min(rows, RECALL_AT + 1))[1]
    return Exam(points, itself, _without(nearest, itself))


def _without(rows: Rows, itself: Rows) -> Rows:
    """Lists [queries, n] without the query's own row, or else without the last one: [queries, n - 1]."""
    order = np.argsort(rows == itself[:, None], axis=1, kind="stable")[:, :-1]
    return np.take_along_axis(rows, order, 1)


def cells_needed(centres: Vectors, matrix: Vectors, exam: Exam, recall: float) -> int:
    """Number of the nearest cells that hold enough of the true neighbours.

    Args:
        centres: float32 [cells, width].
        matrix: float32 [rows, width].
        exam: held-out queries.
        recall: share of the true neighbours to find in the end.
    """
    of_rank = np.argsort(np.argsort(-(exam.queries @ centres.T), axis=1), axis=1)
    cell = np.argmax(matrix[exam.neighbours.ravel()] @ centres.T, axis=1).reshape(exam.neighbours.shape)
    ranks = np.take_along_axis(of_rank, cell, 1)
    # Half of what may be missed is missed here, the other half among the candidates.
    share = 1.0 - (1.0 - _strict(recall)) / 2.0
    return 1 + int(max(np.quantile(ranks[kind], share, method="higher") for kind in exam.kinds()))


def tune(
    segment: Segment, first: SegmentMetadata, practice: Exam, final: Exam, recall: float
) -> SegmentMetadata:
    """The least effort that reaches a recall, and the recall that it has on other queries.

    Args:
        segment: filled segment; its metadata is changed on the way.
        first: metadata without the tuned parameters.
        practice: queries to tune by.
        final: queries to measure with.
        recall: share of the true neighbours to find.

    Returns:
        Parameters, recall and queries filled in.
    """
    if first.kind == "hnsw":
        segment.metadata = _tune_graph(segment, first, practice, recall)
    else:
        segment.metadata = _tune_codes(segment, first, practice, recall)
    measured = final.recall(segment)
    for _ in range(_ATTEMPTS):
        if measured >= recall:
            break
        segment.metadata = _harder(segment.metadata)
        measured = final.recall(segment)
    return replace(segment.metadata, recall=measured, queries=len(final.queries))


def _strict(recall: float) -> float:
    return recall + _MARGIN * (1.0 - recall)


def _tune_graph(segment: Segment, first: SegmentMetadata, practice: Exam, recall: float) -> SegmentMetadata:
    for effort in _EFFORTS:
        segment.metadata = replace(first, parameters={**first.parameters, "effort": effort})
        if practice.recall(segment) >= _strict(recall):
            break
    return segment.metadata


def _tune_codes(segment: Segment, first: SegmentMetadata, practice: Exam, recall: float) -> SegmentMetadata:
    """One search for many candidates shows at which ranks among them the true neighbours come."""
    faiss = load_faiss()
    neighbours = practice.neighbours.shape[1]
    most = min(len(segment), _MOST_CANDIDATES * neighbours)
    cells = None
    if first.kind == "ivf":
        cells = faiss.SearchParametersIVF(nprobe=int(first.parameters["cells"]))
    base = faiss.downcast_index(segment.index.base_index)
    candidate_rows = base.search(practice.queries, most, params=cells)[1]
    ranks = np.stack([_ranks(a, b) for a, b in zip(candidate_rows, practice.neighbours, strict=True)])
    needed = max(np.quantile(ranks[kind], _strict(recall), method="higher") for kind in practice.kinds())
    # Twice the neighbours at least: the order by codes is never so good as to need fewer.
    candidates = max(2 * neighbours, math.ceil(1 + needed))
    return replace(first, parameters={**first.parameters, "candidates": min(candidates, most)})


def _ranks(candidates: Rows, neighbours: Rows) -> Rows:
    """The position of each neighbour in a list of candidates; the list's length where it is not there."""
    order = np.argsort(candidates)
    at = np.minimum(np.searchsorted(candidates, neighbours, sorter=order), len(candidates) - 1)
    return np.where(candidates[order[at]] == neighbours, order[at], len(candidates)).astype(np.int64)


def _harder(metadata: SegmentMetadata) -> SegmentMetadata:
    changed = dict(metadata.parameters)
    for name in ("effort", "candidates", "cells"):
        if name in changed:
            changed[name] = math.ceil(changed[name] * _MORE)
    if "cells" in changed:
        changed["cells"] = min(changed["cells"], changed["of_cells"])
    return replace(metadata, parameters=changed)
