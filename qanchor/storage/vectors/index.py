"""An index: one segment or several, searched as one."""

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property

import numpy as np
import pyarrow as pa

from qanchor.storage.vectors.exact import merge
from qanchor.storage.vectors.metadata import Allowed, IndexMetadata, Mask, Rows, Vectors
from qanchor.storage.vectors.segment import Segment
from qanchor.storage.vectors.users import as_ids, find_users


class VectorIndex:
    """An index in memory, or mapped from its files.

    A row is a position in the segments laid end to end. Where users were changed or removed since the index
    was built, their old rows remain as positions that no search finds and no user has.

    Args:
        metadata: what it holds.
        segments: at least one; a later one has the newer vectors.
        removed: int64, ascending: rows that are nobody's any more.
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
        """How many row positions there are; masks over rows have this length."""
        return int(self._starts[-1])

    @property
    def population(self) -> int:
        """Users that can be found."""
        return self.size - len(self.removed)

    @property
    def dim(self) -> int:
        """Width of a vector."""
        return self.metadata.width

    @cached_property
    def users(self) -> pa.Array:
        """The user of every row position, string [size]; those of removed rows are out of date."""
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

    def rows_of(self, user_ids: Sequence[str | None] | pa.Array) -> Rows:
        """Each user's row, int64 [len(user_ids)]; -1 where the user is not in the index."""
        wanted = as_ids(user_ids)
        rows = np.full(len(wanted), -1, np.int64)
        for start, segment in zip(self._starts, self.segments, strict=False):
            found = find_users(segment.users, wanted)
            at = np.where(found < 0, -1, found + start)
            if self._live is not None:
                at = np.where((at >= 0) & self._live[at], at, -1)
            rows = np.where(at >= 0, at, rows)
        return rows

    def user_ids(self, rows: Rows) -> pa.Array:
        """The users of some rows, string [len(rows)]; every row must be there."""
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
            k: rows wanted; where fewer can be found, the rest are filled up.
            exclude: rows that must not be found.
            allowed: the rows that may be found, as a mask bool [size] or as positions int64; None: all.

        Returns:
            Inner products float32 [queries, k] (-inf where filled up) and rows int64 [queries, k] (-1 there).
        """
        queries = np.ascontiguousarray(queries, np.float32)
        mask = self._mask(exclude, allowed)
        best = None
        for start, segment in zip(self._starts, self.segments, strict=False):
            some = None if mask is None else mask[start : start + len(segment)]
            scores, rows = segment.search(queries, k, some)
            found = scores, np.where(rows < 0, -1, rows + start)
            best = found if best is None else merge(best, found, k)
        assert best is not None  # an index has at least one segment
        return best

    def _mask(self, exclude: Rows | None, allowed: Allowed | None) -> Mask | None:
        banned = exclude is not None and len(exclude) > 0
        if allowed is None and not banned:
            return self._live
        if allowed is not None and allowed.dtype == np.bool_:
            mask: Mask = allowed.astype(np.bool_)
        else:
            mask = np.full(self.size, allowed is None)
            if allowed is not None:
                mask[allowed] = True
        if self._live is not None:
            mask &= self._live
        if banned:
            mask[exclude] = False
        return mask
