"""Which (user, cut-off) pairs a backfill computes, and for which scenarios."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from qanchor.events.history import EventArrays, Int64
from qanchor.names import AS_OF, USER_ID

_SECOND = 1_000_000


@dataclass(frozen=True)
class EmbeddingRequests:
    """Distinct (user, cut-off) pairs, sorted by user and cut-off.

    Args:
        users: object [requests], user ids.
        cutoffs: int64 [requests], microseconds UTC.
        wanted: bool [requests, scenarios], which scenarios want the pair.
    """

    users: NDArray[np.object_]
    cutoffs: Int64
    wanted: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.cutoffs)

    def groups(self) -> Iterator[tuple[Int64, Int64]]:
        """Requests that want the same scenarios: their scenarios' and their own indices.

        A prefix is then encoded once for all scenarios that want it, and none is read out in vain.
        """
        if not len(self):
            return
        kinds, member = np.unique(self.wanted, axis=0, return_inverse=True)
        for number, kind in enumerate(kinds):
            yield np.flatnonzero(kind), np.flatnonzero(member.reshape(-1) == number)

    def table(self) -> pa.Table:
        """The pairs as user_id, as_of."""
        return pairs_table(self.users, self.cutoffs)


def pairs_table(users: Sequence[str] | NDArray[np.object_], cutoffs: Int64) -> pa.Table:
    """A table of user_id and as_of (microseconds UTC)."""
    moments = pa.array(cutoffs, pa.int64()).cast(pa.timestamp("us", tz="UTC"))
    return pa.table({USER_ID: pa.array(users, pa.string()), AS_OF: moments})


def union_of(tables: Mapping[int, Sequence[pa.Table]], scenarios: int) -> EmbeddingRequests:
    """The distinct pairs of all tables.

    Args:
        tables: by scenario, tables with user_id and as_of.
        scenarios: how many there are.
    """
    flat = [(number, table) for number, some in tables.items() for table in some]
    if not flat:
        return EmbeddingRequests(
            np.empty(0, object), np.empty(0, np.int64), np.empty((0, scenarios), dtype=bool)
        )
    ids = pa.concat_arrays([table[USER_ID].cast(pa.string()).combine_chunks() for _, table in flat])
    names = pc.unique(ids).sort()
    codes = np.asarray(pc.index_in(ids, value_set=names)).astype(np.int64)
    cutoffs = np.concatenate([moments(table[AS_OF]) for _, table in flat])
    asked = np.repeat([number for number, _ in flat], [len(table) for _, table in flat])
    pairs, place = np.unique(np.stack([codes, cutoffs], axis=1), axis=0, return_inverse=True)
    wanted = np.zeros((len(pairs), scenarios), dtype=bool)
    wanted[place.reshape(-1), asked] = True
    users = np.array(names.to_pylist(), dtype=object)[pairs[:, 0]]
    return EmbeddingRequests(users, pairs[:, 1], wanted)


def moments(column: pa.ChunkedArray) -> Int64:
    """Times as int64 microseconds UTC; a time without a zone is UTC."""
    return np.asarray(column.cast(pa.timestamp("us"), safe=False).cast(pa.int64())).astype(np.int64)


def users_before(arrays: EventArrays, cutoff: int) -> NDArray[np.object_]:
    """The users with an event before a moment (microseconds UTC), ascending."""
    known = np.zeros(len(arrays.users), dtype=bool)
    for events in arrays.modalities:
        has = np.diff(events.offsets) > 0
        known[has] |= events.time[events.offsets[:-1][has]] < cutoff
    return arrays.users[known]


def just_after(newest: datetime) -> datetime:
    """The first full second after a moment: the default cut-off of a snapshot, which then has every event."""
    return newest.astimezone(UTC).replace(microsecond=0) + timedelta(seconds=1)
