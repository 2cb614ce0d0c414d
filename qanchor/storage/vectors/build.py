"""Building an index, and updating one without building all of it again."""

import time
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from qanchor.errors import IndexInvalid
from qanchor.storage.vectors import kinds
from qanchor.storage.vectors.exact import numpy_view
from qanchor.storage.vectors.index import VectorIndex, find_users
from qanchor.storage.vectors.metadata import IndexMetadata, IndexPlan, Rows, SegmentMetadata, Vectors
from qanchor.storage.vectors.segment import Segment
from qanchor.storage.vectors.tuning import cells_needed, set_exam, tune

# A scan of all codes costs as much as probing this share of the cells, whose lists are shorter and scattered.
_CLUSTERED = 0.25


def build_index(
    users: pa.Array, vectors: Vectors, origin: IndexMetadata, plan: IndexPlan | None = None
) -> VectorIndex:
    """An index over unit vectors.

    Args:
        users: string [rows], distinct.
        vectors: float32 [rows, width], unit length.
        origin: fingerprint, manifest_id and as_of of the vectors.
        plan: kind and exactness; None: the defaults.

    Raises:
        IndexInvalid: there are no vectors, a user has two, a vector is not of length 1, or the plan's
            memory is too small.
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
        plan: kind and exactness.
    """
    began = time.monotonic()
    rows, width = vectors.shape
    kind, share = kinds.choose_kind(rows, width, plan)
    if kind == "flat":
        metadata = SegmentMetadata("flat", rows, build_seconds=time.monotonic() - began)
        return Segment(metadata, users, kinds.fill_flat(vectors))
    practice, final = set_exam(vectors, plan.queries, 1), set_exam(vectors, plan.queries, 2)
    parameters: dict[str, float] = {}
    if kind == "hnsw":
        index = kinds.fill_graph(vectors)
    else:
        cells, parameters = None, {"dims_per_code": share}
        if kind == "ivf":
            cells = kinds.train_cells(vectors)
            probed = cells_needed(numpy_view(cells), vectors, practice, plan.recall)
            if plan.kind == "auto" and probed > _CLUSTERED * cells.ntotal:
                kind, cells = "codes", None
            else:
                parameters |= {"cells": probed, "of_cells": cells.ntotal}
        index = kinds.fill_codes(vectors, share, cells)
    memory = kinds.memory_bytes(kind, rows, width, share)
    first = SegmentMetadata(kind, rows, parameters, memory_bytes=memory)
    segment = Segment(first, pa.concat_arrays([users]), index)
    tuned = tune(segment, first, practice, final, plan.recall)
    segment.metadata = replace(tuned, build_seconds=time.monotonic() - began)
    return segment


def update_index(
    index: VectorIndex,
    users: pa.Array,
    vectors: Vectors,
    origin: IndexMetadata,
    plan: IndexPlan | None = None,
) -> VectorIndex:
    """The index of these users, built segments kept.

    New users and users with another vector get a segment of their own; rows of users who are no longer
    there or have changed are removed. The segment of an earlier update is replaced, so that there is only
    ever one.

    Args:
        index: the earlier one, of the same embedding space.
        users: string [rows], distinct, all users of the new index.
        vectors: float32 [rows, width], unit length.
        origin: fingerprint, manifest_id and as_of of the vectors.
        plan: kind and exactness of the segment of changes.

    Raises:
        IndexInvalid: for the reasons of `build_index`.
    """
    _check(users, vectors)
    users, vectors = _by_user(users, vectors)
    built = [segment for segment in index.segments if not segment.metadata.is_update]
    unchanged = np.zeros(len(users), np.bool_)
    removed: list[Rows] = []
    start = 0
    for segment in built:
        rows = find_users(users, segment.users)
        same = rows >= 0
        same[same] = (segment.matrix[same] == vectors[rows[same]]).all(axis=1)
        unchanged[rows[same]] = True
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
