"""Which kind of index for how many vectors, and faiss's own object of each kind.

Measured on a million vectors of 128 dimensions (docs/benchmarks.md): codes of four bits for every two
dimensions, scanned in the processor's registers, with the best candidates ranked again by their vectors,
have the recall of a graph in less time, with a twentieth of its memory and a tenth of its building time;
where vectors form clusters, scanning only the nearest cells is faster still. So a graph is built on request
only.
"""

import math
from typing import Any, Final

import numpy as np

from qanchor.errors import IndexInvalid
from qanchor.storage.vectors.exact import load_faiss
from qanchor.storage.vectors.metadata import IndexPlan, Kind, Vectors

# Fewer cannot train codes, and are scanned in no time.
LEAST_TRAINED: Final = 1_000
_TRAINED_ROWS = 65_536
_ROWS_PER_CELL = 50
_CELL_ROUNDS = 10
_EDGES = 32
_CONSTRUCTION_EFFORT = 80
# Bytes of the cell's list and the id, on top of the code.
_CELL_BYTES_PER_ROW = 8
_GIB = 2**30


def choose_kind(rows: int, width: int, plan: IndexPlan) -> tuple[Kind, int]:
    """The kind for a segment, and how many dimensions share one four-bit code.

    'ivf' may still become 'codes' when the vectors turn out to have no clusters.

    Args:
        rows: number of vectors in the segment.
        width: dimensions of a vector.
        plan: requested kind, recall and memory.

    Raises:
        IndexInvalid: the memory is too small; allow more, or put the users on more machines.
    """
    if rows < LEAST_TRAINED or plan.kind == "flat" or (plan.kind == "auto" and rows < plan.exact_below):
        return "flat", 0
    kind: Kind = "ivf" if plan.kind == "auto" else plan.kind
    shares = (0,) if kind == "hnsw" else tuple(n for n in (2, 4, 8) if width % n == 0) or (1,)
    for share in shares:
        need = memory_bytes(kind, rows, width, share)
        if not plan.memory_bytes or need <= plan.memory_bytes:
            return kind, share
    raise IndexInvalid(
        f"an index of kind {kind} over {rows:,} users needs {need / _GIB:.3g} GiB of memory,"
        f" and {plan.memory_bytes / _GIB:.3g} GiB are allowed",
        "Raise QANCHOR_INDEX__MEMORY_GIB, or set QANCHOR_INDEX__KIND=auto.",
    )


def memory_bytes(kind: Kind, rows: int, width: int, share: int) -> int:
    """Memory that a search of a segment needs, vectors mapped from disk left out.

    The walk over a graph touches vectors everywhere, so there they count.
    """
    if kind == "flat":
        return 0
    if kind == "hnsw":
        return rows * (4 * width + 4 * 2 * _EDGES + 16)
    return rows * (width // share // 2 + (_CELL_BYTES_PER_ROW if kind == "ivf" else 0))


def train_cells(vectors: Vectors) -> Any:
    """The centres of cells, as a flat faiss index: the square root of the rows, to a power of two."""
    faiss = load_faiss()
    rows, width = vectors.shape
    cells = 2 ** round(math.log2(math.sqrt(rows)))
    sample = _sample(vectors, min(rows, cells * _ROWS_PER_CELL))
    kmeans = faiss.Kmeans(width, cells, niter=_CELL_ROUNDS, spherical=True, seed=1, min_points_per_centroid=1)
    kmeans.train(sample)
    centres = faiss.IndexFlatIP(width)
    centres.add(kmeans.centroids)
    return centres


def fill_codes(vectors: Vectors, share: int, cells: Any | None) -> Any:
    """Codes of all vectors, by cell or not, with the vectors behind them.

    Args:
        vectors: float32 [rows, width].
        share: dimensions that share one code.
        cells: result of `train_cells`; None: every code is scanned.
    """
    faiss = load_faiss()
    width = vectors.shape[1]
    codes = width // share
    if cells is None:
        base = faiss.IndexPQFastScan(width, codes, 4, faiss.METRIC_INNER_PRODUCT)
    else:
        base = faiss.IndexIVFPQFastScan(cells, width, cells.ntotal, codes, 4, faiss.METRIC_INNER_PRODUCT)
        # Codes of the difference from the cell's centre: the same bits say more.
        base.by_residual = True
        base.own_fields = True
        cells.this.disown()
    base.train(_sample(vectors, min(len(vectors), _TRAINED_ROWS)))
    base.add(vectors)
    index = faiss.IndexRefineFlat(base, faiss.swig_ptr(vectors))
    index.own_fields = True
    base.this.disown()
    return index


def fill_graph(vectors: Vectors) -> Any:
    """An HNSW graph over all vectors."""
    faiss = load_faiss()
    index = faiss.IndexHNSWFlat(vectors.shape[1], _EDGES, faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efConstruction = _CONSTRUCTION_EFFORT
    index.add(vectors)
    return index


def fill_flat(vectors: Vectors) -> Any:
    """The vectors alone."""
    index = load_faiss().IndexFlatIP(vectors.shape[1])
    index.add(vectors)
    return index


def _sample(vectors: Vectors, rows: int) -> Vectors:
    if rows >= len(vectors):
        return vectors
    chosen = np.random.default_rng(1).choice(len(vectors), rows, replace=False)
    return np.ascontiguousarray(vectors[np.sort(chosen)])
