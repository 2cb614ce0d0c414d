"""Building an index, and bringing one up to date without building it anew."""

import time
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from qanchor.errors import IndexInvalid
from qanchor.storage.vectors import kinds
from qanchor.storage.vectors.index import VectorIndex
from qanchor.storage.vectors.metadata import IndexMetadata, IndexPlan, Rows, SegmentMetadata, Vectors
from qanchor.storage.vectors.native import numpy_view
from qanchor.storage.vectors.segment import Segment
from qanchor.storage.vectors.tuning import cells_needed, set_exam, tune
from qanchor.storage.vectors.users import find_users

# A scan of all codes costs as much as probing this share of the cells, whose lists are shorter and scattered.
_CLUSTERED = 0.25


def build_index(
    users: pa.Array, vectors: Vectors, origin: IndexMetadata, plan: IndexPlan | None = None
) -> VectorIndex:
    """An index over unit vectors.

    Args:
        users: string [rows], distinct.
        vectors: float32 [rows, width], unit length.
        origin: its fingerprint, manifest_id and as_of are taken over.
        plan: what kind, and how exact; None: the defaults.

    Raises:
        IndexInvalid: there are none, a user is there twice, a vector is not of length 1, or the plan's
            memory does not do.
    """
    plan = plan or IndexPlan()
    _check(users, vectors)
    users, vectors = _by_user(users, vectors)
    count = -(-len(users) // plan.shard_rows)
    # Shards of one size, so that none is left too small to be worth a file.
    bounds = np.linspace(0, len(users), count + 1).astype(int)
    if plan.memory_bytes:
        plan = replace(plan, memory_bytes=plan.memory_bytes // count)
    segments = [build_segment(users[a:b], vectors[a:b], plan) for a, b in pairwise(bounds)]
    return VectorIndex(replace(origin, width=vectors.shape[1], sizes=None), segments)


def build_segment(users: pa.Array, vectors: Vectors, plan: IndexPlan) -> Segment:
    """One segment over unit vectors.

    Args:
        users: string [rows], ascending, distinct.
        vectors: float32 [rows, width], unit length.
        plan: what kind, and how exact.
    """
    began = time.monotonic()
    rows, width = vectors.shape
    kind, share = kinds.choose_kind(rows, width, plan)
    if kind == "flat":
        metadata = SegmentMetadata("flat", rows, build_seconds=time.monotonic() - began)
        return Segment(metadata, users, kinds.fill_flat(vectors))
    exams = set_exam(vectors, plan.queries, 1), set_exam(vectors, plan.queries, 2)
    parameters: dict[str, float] = {}
    if kind == "hnsw":
        index = kinds.fill_graph(vectors)
    else:
        cells, parameters = None, {"dims_per_code": share}
        if kind == "ivf":
            cells = kinds.train_cells(vectors)
            probed = cells_needed(numpy_view(cells), vectors, exams[0], plan.recall)
            if plan.kind == "auto" and probed > _CLUSTERED * cells.ntotal:
                kind, cells = "codes", None
            else:
                parameters |= {"cells": probed, "of_cells": cells.ntotal}
        index = kinds.fill_codes(vectors, share, cells)
    memory = kinds.memory_bytes(kind, rows, width, share)
    first = SegmentMetadata(kind, rows, parameters, memory_bytes=memory)
    segment = Segment(first, pa.concat_arrays([users]), index)
    tuned = tune(segment, first, exams, plan.recall)
    segment.metadata = replace(tuned, build_seconds=time.monotonic() - began)
    return segment


def update_index(
    index: VectorIndex,
    users: pa.Array,
    vectors: Vectors,
    origin: IndexMetadata,
    plan: IndexPlan | None = None,
) -> VectorIndex:
    """The index as it has to be for these users, most of it as it was.

    What was built stays; users who are new or have another vector get a segment of their own, and the rows
    of those who are gone or changed are removed. The segment of an earlier update is replaced, so that
    there is only ever one.

    Args:
        index: the earlier one, of the same embedding space.
        users: string [rows], distinct: everybody there is to be.
        vectors: float32 [rows, width], unit length.
        origin: its fingerprint, manifest_id and as_of are taken over.
        plan: for the segment of changes.

    Raises:
        IndexInvalid: as of `build_index`.
    """
    _check(users, vectors)
    users, vectors = _by_user(users, vectors)
    built = [segment for segment in index.segments if not segment.metadata.is_update]
    unchanged = np.zeros(len(users), np.bool_)
    removed: list[Rows] = []
    start = 0
    for segment in built:
        at = find_users(users, segment.users)
        same = at >= 0
        same[same] = (segment.matrix[same] == vectors[at[same]]).all(axis=1)
        unchanged[at[same]] = True
        removed.append(np.flatnonzero(~same) + start)
        start += len(segment)
    changed = np.flatnonzero(~unchanged)
    if len(changed):
        update = build_segment(users.take(pa.array(changed)), vectors[changed], plan or IndexPlan())
        update.metadata = replace(update.metadata, is_update=True)
        built.append(update)
    return VectorIndex(
        replace(origin, width=index.dim, sizes=None), built, np.concatenate(removed).astype(np.int64)
    )


def _by_user(users: pa.Array, vectors: Vectors) -> tuple[pa.Array, Vectors]:
    vectors = np.ascontiguousarray(vectors, np.float32)
    order = np.asarray(pc.sort_indices(users))
    if (order[1:] > order[:-1]).all():
        return users, vectors
    return users.take(pa.array(order)), vectors[order]


def _check(users: pa.Array, vectors: Vectors) -> None:
    remedy = "Run `qanchor-cli backfill` again."
    if not len(users):
        raise IndexInvalid("there are no vectors to index", remedy)
    if len(users) != len(vectors) or pc.count_distinct(users).as_py() != len(users):
        raise IndexInvalid("a user has more than one vector", remedy)
    # Not by np.linalg.norm: it makes a copy of all vectors.
    lengths = np.sqrt(np.einsum("rd,rd->r", vectors, vectors))
    wrong = np.flatnonzero(~(np.abs(lengths - 1.0) < 1e-3))
    if len(wrong):
        raise IndexInvalid(
            f"the vector of user {users[int(wrong[0])].as_py()!r} has length {lengths[wrong[0]]:.4g}, not 1",
            remedy,
        )
