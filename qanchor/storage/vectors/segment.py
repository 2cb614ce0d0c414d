"""One file of an index: its users' vectors, and whatever makes searching them fast."""

import math
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from qanchor.storage.vectors.exact import exact_search, load_faiss, numpy_view
from qanchor.storage.vectors.metadata import RECALL_AT, Mask, Rows, SegmentMetadata, Vectors

# Microseconds on one core, measured: what decides between scanning vectors and searching codes.
_SCANNED_VECTOR = 0.03
_COPIED_VECTOR = 0.1
_CODE = 0.0018
_CANDIDATE = 0.2
_STEP = 1.2
# A scan misses nobody, and may cost this many times as much for that.
_WORTH_OF_EXACT = 2.0
# A batch shares the reading of the vectors.
_BATCH, _BATCH_DISCOUNT = 20, 0.2
# Margin over the rows that a filter keeps on average, so that few queries fall short.
_SLACK, _SPARE = 1.2, 32


class Segment:
    """Vectors with the users they belong to.

    Args:
        metadata: kind, size and search parameters.
        users: string [rows], ascending, distinct.
        index: faiss index over the vectors.
        folder: folder that it was loaded from; None where it was never saved.
    """

    def __init__(
        self, metadata: SegmentMetadata, users: pa.Array, index: Any, folder: Path | None = None
    ) -> None:
        self.metadata = metadata
        self.users = users
        self.index = index
        self.folder = folder

    def __len__(self) -> int:
        return len(self.users)

    @cached_property
    def matrix(self) -> Vectors:
        """The vectors, float32 [rows, width], not copied."""
        # The flat object must live as long as the view of its memory; the index owns it.
        return numpy_view(_flat_index(self.index))

    def search(self, queries: Vectors, k: int, mask: Mask | None = None) -> tuple[Vectors, Rows]:
        """The k rows of greatest inner product for each query, best first.

        A filter never costs recall: where it keeps few rows they are scanned; where it keeps many, more are
        searched for than needed and those it drops are left out; a query that is short of rows then is
        answered by a scan.

        Args:
            queries: float32 [queries, width].
            k: number of rows for each query.
            mask: bool [rows], rows to search among; None: all.

        Returns:
            Inner products float32 [queries, k] (-inf where there are fewer) and rows int64 (-1 there).
        """
        allowed = len(self) if mask is None else int(np.count_nonzero(mask))
        mask = None if allowed == len(self) else mask
        enough = min(k, allowed)
        searched = enough
        if mask is not None:
            searched = min(len(self), math.ceil(_SLACK * enough * len(self) / max(1, allowed)) + _SPARE)
        if self._scan_is_worth_it(len(queries), searched, allowed):
            return exact_search(self.matrix, queries, k, None if mask is None else np.flatnonzero(mask))
        scores, rows = self.approximate(queries, searched)
        if mask is None and k == enough and rows.size and rows.min() >= 0:
            return scores, rows
        kept = rows >= 0 if mask is None else (rows >= 0) & mask[rows]
        order = np.argsort(~kept, axis=1, kind="stable")[:, :enough]
        padding = ((0, 0), (0, k - enough))
        scores = np.pad(np.take_along_axis(scores, order, 1), padding, constant_values=-np.inf)
        rows = np.pad(np.take_along_axis(rows, order, 1), padding, constant_values=-1)
        short = np.flatnonzero(kept.sum(axis=1) < enough)
        if len(short):
            among = None if mask is None else np.flatnonzero(mask)
            scores[short], rows[short] = exact_search(self.matrix, queries[short], k, among)
        return scores, rows

    def approximate(self, queries: Vectors, k: int) -> tuple[Vectors, Rows]:
        """As `search`, by codes or graph, with what was tuned for 100 rows widened for more."""
        faiss = load_faiss()
        parameters, wider = self.metadata.parameters, max(1.0, k / RECALL_AT)
        if self.metadata.kind == "hnsw":
            chosen = faiss.SearchParametersHNSW(efSearch=math.ceil(parameters["effort"] * wider))
        else:
            cells = None
            if self.metadata.kind == "ivf":
                probed = min(parameters["of_cells"], parameters["cells"] * wider)
                cells = faiss.SearchParametersIVF(nprobe=math.ceil(probed))
            candidates = min(len(self), parameters["candidates"] * wider)
            chosen = faiss.IndexRefineSearchParameters(
                k_factor=max(1.0, candidates / k), base_index_params=cells
            )
        scores, rows = self.index.search(queries, k, params=chosen)
        return np.where(rows < 0, -np.inf, scores).astype(np.float32), rows

    def _scan_is_worth_it(self, queries: int, k: int, allowed: int) -> bool:
        kind, parameters = self.metadata.kind, self.metadata.parameters
        if kind == "flat" or allowed == 0:
            return True
        scan = allowed * (_SCANNED_VECTOR if allowed == len(self) else _COPIED_VECTOR)
        scan *= _BATCH_DISCOUNT if queries >= _BATCH else 1.0
        wider = max(1.0, k / RECALL_AT)
        if kind == "hnsw":
            return scan <= _WORTH_OF_EXACT * parameters["effort"] * wider * _STEP
        share = min(1.0, parameters["cells"] * wider / parameters["of_cells"]) if kind == "ivf" else 1.0
        fast = len(self) * share * _CODE + parameters["candidates"] * wider * _CANDIDATE
        return scan <= _WORTH_OF_EXACT * fast


def _flat_index(index: object) -> Any:
    """The flat index of the vectors inside an index of any kind."""
    for part in ("refine_index", "storage"):
        if hasattr(index, part):
            return load_faiss().downcast_index(getattr(index, part))
    return index
