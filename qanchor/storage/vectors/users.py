"""The users of an index's rows, looked up by binary search: nothing but the ids themselves is kept."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from qanchor.storage.vectors.metadata import Rows

# A hash table of every id pays where a good part of them is asked for.
_HASHED_SHARE = 0.02


def find_users(users: pa.Array, wanted: pa.Array) -> Rows:
    """Each wanted user's row, int64 [wanted]; -1 where the user is not there.

    Args:
        users: string [rows], ascending, distinct; may be mapped from a file.
        wanted: string, in any order, repeats and nulls allowed.
    """
    if len(wanted) > _HASHED_SHARE * len(users):
        found = pc.index_in(wanted, value_set=users)
        return np.asarray(found.fill_null(-1)).astype(np.int64)
    low = np.zeros(len(wanted), np.int64)
    high = np.full(len(wanted), len(users), np.int64)
    while (searching := low < high).any():
        middle = (low + high) // 2
        at = users.take(pa.array(np.minimum(middle, len(users) - 1)))
        below = np.asarray(pc.less(at, wanted).fill_null(False)) & searching
        low = np.where(below, middle + 1, low)
        high = np.where(searching & ~below, middle, high)
    at = users.take(pa.array(np.minimum(low, len(users) - 1)))
    there = np.asarray(pc.equal(at, wanted).fill_null(False)) & (low < len(users))
    return np.where(there, low, -1)


def as_ids(user_ids: "Sequence[str | None] | pa.Array | pa.ChunkedArray") -> pa.Array:
    """User ids as one Arrow array."""
    if isinstance(user_ids, pa.ChunkedArray):
        user_ids = user_ids.combine_chunks()
    return user_ids if isinstance(user_ids, pa.Array) else pa.array(user_ids, pa.string())
