"""An index: one segment or several, searched as one."""

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from qanchor.storage.vectors.exact import merge
from qanchor.storage.vectors.metadata import Allowed, IndexMetadata, Mask, Rows, Vectors
from qanchor.storage.vectors.segment import Segment

# A hash table of every id pays where a good part of them is looked up.
_HASHED_SHARE = 0.02


class VectorIndex:
    """An index in memory, or mapped from its files.

    A row is a position in the segments laid end to end. Where users were changed or removed since the index
    was built, their old rows remain; no search returns them.

    Args:
        metadata: space, cut-off and segments of the index.
        segments: at least one; a later one has the newer vectors.
        removed: int64, ascending: rows of users who were changed or removed.
    """

    def __init__(
        self, metadata: IndexMetadata, segments: Sequence[Segment], removed: Rows | None = None
    ) -> None:
        self.removed = np.empty(0, np.int64) if removed is None else removed
        self.metadata = replace(
            metadata, segments=tuple(s.metadata for s in segments), removed=len(self.removed)
        )
        self.segments = tuple(segments)
        self._starts = np.concatenate([[0], np.cumsum([len(s) for s in segments])]).astype(np.int64)

    @property
    def size(self) -> int:
        """Number of rows, removed ones included; masks over rows have this length."""
        return int(self._starts[-1])

    @property
    def population(self) -> int:
        """Number of users."""
        return self.size - len(self.removed)

    @property
    def dim(self) -> int:
        """Width of a vector."""
        return self.metadata.width

    @cached_property
    def users(self) -> pa.Array:
        """The user of every row, string [size]; those of removed rows are out of date."""
        if len(self.segments) == 1:
            return self.segments[0].users
        return pa.concat_arrays([segment.users for segment in self.segments])

    @cached_property
    def _live(self) -> Mask | None:
        if not len(self.removed):
            return None
        live = np.ones(self.size, np.bool_)
        live[self.removed] = False
        return live

    def live_rows(self) -> Rows:
        """Every row that is a user's, int64 [population], ascending."""
        return np.arange(self.size) if self._live is None else np.flatnonzero(self._live)

    def rows_of(self, user_ids: Sequence[str | None] | pa.Array | pa.ChunkedArray) -> Rows:
        """Each user's row, int64 [len(user_ids)]; -1 where the user is not in the index."""
        if isinstance(user_ids, pa.ChunkedArray):
            user_ids = user_ids.combine_chunks()
        ids = user_ids if isinstance(user_ids, pa.Array) else pa.array(user_ids, pa.string())
        rows = np.full(len(ids), -1, np.int64)
        for start, segment in zip(self._starts, self.segments, strict=False):
            in_segment = find_users(segment.users, ids)
            in_index = np.where(in_segment < 0, -1, in_segment + start)
            if self._live is not None:
                in_index = np.where((in_index >= 0) & self._live[in_index], in_index, -1)
            rows = np.where(in_index >= 0, in_index, rows)
        return rows

    def user_ids(self, rows: Rows) -> pa.Array:
        """The users of some rows, string [len(rows)]; every row must exist."""
        return self.users.take(pa.array(rows, pa.int64()))

    def vectors(self, rows: Rows) -> Vectors:
        """The unit vectors of some rows, float32 [len(rows), width]."""
        if len(self.segments) == 1:
            return self.segments[0].matrix[rows]
        rows = np.asarray(rows, np.int64)
        result = np.empty((len(rows), self.dim), np.float32)
        owner = np.searchsorted(self._starts, rows, side="right") - 1
        for number, segment in enumerate(self.segments):
            mine = owner == number
            result[mine] = segment.matrix[rows[mine] - self._starts[number]]
        return result

    def search(
        self, queries: Vectors, k: int, exclude: Rows | None = None, *, allowed: Allowed | None = None
    ) -> tuple[Vectors, Rows]:
        """The k rows of greatest inner product for each query, best first.

        Args:
            queries: float32 [queries, width], unit vectors.
            k: number of rows for each query; where there are fewer, the rest is filled up.
            exclude: rows to leave out.
            allowed: rows to search among, as a mask bool [size] or as rows int64; None: all.

        Returns:
            Inner products float32 [queries, k] (-inf where filled up) and rows int64 [queries, k] (-1 there).
        """
        queries = np.ascontiguousarray(queries, np.float32)
        mask = self._mask(exclude, allowed)
        best = np.empty((len(queries), 0), np.float32), np.empty((len(queries), 0), np.int64)
        for start, segment in zip(self._starts, self.segments, strict=False):
            part = None if mask is None else mask[start : start + len(segment)]
            scores, rows = segment.search(queries, k, part)
            rows = np.where(rows < 0, -1, rows + start)
            best = merge(*best, scores, rows, k) if best[0].size else (scores, rows)
        return best

    def _mask(self, exclude: Rows | None, allowed: Allowed | None) -> Mask | None:
        excluded = np.empty(0, np.int64) if exclude is None else exclude
        if allowed is None and not len(excluded):
            return self._live
        if allowed is not None and allowed.dtype == np.bool_:
            mask: Mask = allowed.astype(np.bool_)
        else:
            mask = np.full(self.size, allowed is None)
            if allowed is not None:
                mask[allowed] = True
        if self._live is not None:
            mask &= self._live
        mask[excluded] = False
        return mask


def find_users(users: pa.Array, ids: pa.Array) -> Rows:
    """Each user's row by binary search, so that nothing but the ids is kept; -1 where there is no such user.

    Args:
        users: string [rows], ascending, distinct; may be mapped from a file.
        ids: string, in any order, repetitions and nulls allowed.
    """
    if len(ids) > _HASHED_SHARE * len(users):
        return np.asarray(pc.index_in(ids, value_set=users).fill_null(-1)).astype(np.int64)
    low = np.zeros(len(ids), np.int64)
    high = np.full(len(ids), len(users), np.int64)
    while (searching := low < high).any():
        middle = (low + high) // 2
        candidates = users.take(pa.array(np.minimum(middle, len(users) - 1)))
        below = np.asarray(pc.less(candidates, ids).fill_null(False)) & searching
        low = np.where(below, middle + 1, low)
        high = np.where(searching & ~below, middle, high)
    candidates = users.take(pa.array(np.minimum(low, len(users) - 1)))
    equal = np.asarray(pc.equal(candidates, ids).fill_null(False)) & (low < len(users))
    return np.where(equal, low, -1)
