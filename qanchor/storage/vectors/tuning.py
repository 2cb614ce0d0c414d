"""How hard a search has to try: tuned on some held-out queries, measured on others, against exact search."""

import math
from dataclasses import dataclass, replace

import numpy as np

from qanchor.storage.vectors.exact import exact_search
from qanchor.storage.vectors.metadata import RECALL_AT, Mask, Rows, SegmentMetadata, Vectors
from qanchor.storage.vectors.native import load_faiss
from qanchor.storage.vectors.segment import Segment

# Tried for less than what is allowed to be missed, so that other queries reach the target too.
_MARGIN = 0.15
_MOST_CANDIDATES = 64
_EFFORTS = tuple(2**power for power in range(6, 13))
_MORE, _ATTEMPTS = 1.15, 16


@dataclass(frozen=True)
class Exam:
    """Queries with their exact answers.

    Args:
        queries: float32 [queries, width], unit vectors.
        own: int64 [queries], the row that a query is itself, which must not count; -1: none.
        neighbours: int64 [queries, 100], the true nearest rows, `own` left out.
    """

    queries: Vectors
    own: Rows
    neighbours: Rows

    def recall(self, segment: Segment) -> float:
        """The share of the true neighbours that a fast search finds, for the harder sort of query."""
        wanted = self.neighbours.shape[1]
        found = without_own(segment.approximate(self.queries, wanted + 1)[1], self.own)
        same = np.array([np.isin(a, b).mean() for a, b in zip(self.neighbours, found, strict=True)])
        return float(min(same[sort].mean() for sort in self.sorts()))

    def sorts(self) -> list[Mask]:
        """Which queries are users and which lie between two, bool [queries] each."""
        return [sort for sort in (self.own >= 0, self.own < 0) if sort.any()]


def set_exam(matrix: Vectors, queries: int, seed: int) -> Exam:
    """Questions as they will be asked: users themselves (left out of their own answers), and points between
    two users, as the centre of a few seeds is.

    Args:
        matrix: float32 [rows, width].
        queries: how many.
        seed: another one, other questions.
    """
    rows = len(matrix)
    random = np.random.default_rng(seed)
    own = random.integers(0, rows, queries)
    asked = matrix[own].copy()
    between = np.arange(queries) % 2 == 1
    asked[between] += 0.5 * matrix[random.integers(0, rows, int(between.sum()))]
    asked /= np.maximum(np.linalg.norm(asked, axis=1, keepdims=True), 1e-12)
    own = np.where(between, -1, own)
    found = exact_search(matrix, asked, min(rows, RECALL_AT + 1))[1]
    return Exam(asked, own, without_own(found, own))


def without_own(found: Rows, own: Rows) -> Rows:
    """Lists [queries, n] without the query's own row, or else without the last one: [queries, n - 1]."""
    order = np.argsort(found == own[:, None], axis=1, kind="stable")[:, :-1]
    return np.take_along_axis(found, order, 1)


def cells_needed(centres: Vectors, matrix: Vectors, exam: Exam, recall: float) -> int:
    """How many of the nearest cells hold enough of the true neighbours.

    Args:
        centres: float32 [cells, width].
        matrix: float32 [rows, width].
        exam: sets the questions.
        recall: the share that is wanted in the end.
    """
    of_rank = np.argsort(np.argsort(-(exam.queries @ centres.T), axis=1), axis=1)
    cell = np.argmax(matrix[exam.neighbours.ravel()] @ centres.T, axis=1).reshape(exam.neighbours.shape)
    ranks = np.take_along_axis(of_rank, cell, 1)
    # Half of what may be missed is missed here, the other half among the candidates.
    share = 1.0 - (1.0 - _strict(recall)) / 2.0
    return 1 + int(max(np.quantile(ranks[sort], share, method="higher") for sort in exam.sorts()))


def tune(
    segment: Segment, first: SegmentMetadata, exams: tuple[Exam, Exam], recall: float
) -> SegmentMetadata:
    """The least effort that finds what is wanted, and what it finds of other queries.

    Args:
        segment: filled; its own metadata is changed on the way.
        first: what is known so far.
        exams: to tune by, and to measure with.
        recall: the share that is wanted.

    Returns:
        Parameters, recall and queries filled in.
    """
    practice, final = exams
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
    """One search for many candidates tells where among them the true neighbours stand."""
    faiss = load_faiss()
    wanted = practice.neighbours.shape[1]
    most = min(len(segment), _MOST_CANDIDATES * wanted)
    cells = None
    if first.kind == "ivf":
        cells = faiss.SearchParametersIVF(nprobe=int(first.parameters["cells"]))
    base = faiss.downcast_index(segment.index.base_index)
    found = base.search(practice.queries, most, params=cells)[1]
    ranks = np.stack([_ranks(a, b) for a, b in zip(found, practice.neighbours, strict=True)])
    needed = max(np.quantile(ranks[sort], _strict(recall), method="higher") for sort in practice.sorts())
    # Twice as many as wanted at least: the order by codes is never so good as to need fewer.
    candidates = max(2 * wanted, math.ceil(1 + needed))
    return replace(first, parameters={**first.parameters, "candidates": min(candidates, most)})


def _ranks(found: Rows, wanted: Rows) -> Rows:
    """Where each wanted row stands in a list; its length where it is not there."""
    order = np.argsort(found)
    at = np.minimum(np.searchsorted(found, wanted, sorter=order), len(found) - 1)
    return np.where(found[order[at]] == wanted, order[at], len(found)).astype(np.int64)


def _harder(metadata: SegmentMetadata) -> SegmentMetadata:
    changed = dict(metadata.parameters)
    for name in ("effort", "candidates", "cells"):
        if name in changed:
            changed[name] = math.ceil(changed[name] * _MORE)
    if "cells" in changed:
        changed["cells"] = min(changed["cells"], changed["of_cells"])
    return replace(metadata, parameters=changed)
