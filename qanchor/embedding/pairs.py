"""(User, cut-off) pairs to embed, and their vectors as rows of the offline store."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from qanchor.events.history import EventArrays, HistorySlices, Int64
from qanchor.names import (
    AS_OF,
    CREATED,
    EVENT_TIMESTAMP,
    LAST_EVENT_TS,
    MODEL_VERSION,
    N_EVENTS,
    USER_ID,
    embedding_field,
)
from qanchor.times import TIMESTAMP, as_utc, column_microseconds, timestamps


@dataclass(frozen=True)
class Pairs:
    """Distinct (user, cut-off) pairs, sorted by user and cut-off.

    Args:
        users: object [pairs], user ids.
        cutoffs: int64 [pairs], microseconds UTC.
        scenarios: bool [pairs, scenarios], the scenarios that each pair is embedded for.
    """

    users: NDArray[np.object_]
    cutoffs: Int64
    scenarios: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.cutoffs)

    def between(self, start: int, stop: int) -> "Pairs":
        """The pairs of rows `start` to `stop`."""
        return Pairs(self.users[start:stop], self.cutoffs[start:stop], self.scenarios[start:stop])

    def groups(self) -> Iterator[tuple[Int64, Int64]]:
        """Pairs of the same scenarios: indices of the scenarios, and rows of the pairs.

        So a prefix is encoded once for all of its scenarios, and no vector is made that nobody needs.
        """
        if not len(self):
            return
        kinds, member = np.unique(self.scenarios, axis=0, return_inverse=True)
        for number, kind in enumerate(kinds):
            yield np.flatnonzero(kind), np.flatnonzero(member.reshape(-1) == number)

    def table(self) -> pa.Table:
        """The pairs as user_id, as_of."""
        return pairs_table(self.users, self.cutoffs)


def pairs_table(users: Sequence[str] | NDArray[np.object_], cutoffs: Int64) -> pa.Table:
    """A table of user_id and as_of (microseconds UTC)."""
    return pa.table({USER_ID: pa.array(users, pa.string()), AS_OF: timestamps(cutoffs)})


def union_of(tables: Mapping[int, Sequence[pa.Table]], scenarios: int) -> Pairs:
    """The distinct pairs of all tables.

    Args:
        tables: tables with user_id and as_of, by index of the scenario.
        scenarios: number of scenarios.
    """
    flat = [(scenario, table) for scenario, some in tables.items() for table in some]
    if not flat:
        return Pairs(np.empty(0, object), np.empty(0, np.int64), np.empty((0, scenarios), dtype=bool))
    ids = pa.concat_arrays([table[USER_ID].cast(pa.string()).combine_chunks() for _, table in flat])
    users = pc.unique(ids).sort()
    codes = np.asarray(pc.index_in(ids, value_set=users)).astype(np.int64)
    cutoffs = np.concatenate([column_microseconds(table[AS_OF]) for _, table in flat])
    scenario = np.repeat([scenario for scenario, _ in flat], [len(table) for _, table in flat])
    pairs, row = np.unique(np.stack([codes, cutoffs], axis=1), axis=0, return_inverse=True)
    flags = np.zeros((len(pairs), scenarios), dtype=bool)
    flags[row.reshape(-1), scenario] = True
    return Pairs(np.array(users.to_pylist(), dtype=object)[pairs[:, 0]], pairs[:, 1], flags)


def just_after(newest: datetime) -> datetime:
    """The first full second after a moment: the default cut-off of a snapshot, which then has every event."""
    return as_utc(newest).replace(microsecond=0) + timedelta(seconds=1)


@dataclass(frozen=True)
class VectorRows:
    """Vectors of one scenario, and the events that they were made from.

    Args:
        users: object [rows], user ids.
        cutoffs: int64 [rows], microseconds UTC.
        vectors: float32 [rows, dim], unit length.
        events: int64 [rows], events of the window before the cut-off.
        last: int64 [rows], the newest of them, microseconds UTC; -1 where there is none.
    """

    users: NDArray[np.object_]
    cutoffs: Int64
    vectors: NDArray[np.float32]
    events: Int64
    last: Int64

    def table(self, scenario: str, model_version: str) -> pa.Table:
        """The rows in the columns of the scenario's Feast view."""
        rows, width = self.vectors.shape
        offsets = np.arange(0, rows * width + 1, width, dtype=np.int32)
        moment = timestamps(self.cutoffs)
        return pa.table(
            {
                USER_ID: pa.array(self.users, pa.string()),
                embedding_field(scenario): pa.ListArray.from_arrays(offsets, self.vectors.reshape(-1)),
                MODEL_VERSION: pa.array([model_version] * rows, pa.string()),
                N_EVENTS: self.events,
                LAST_EVENT_TS: pa.array(self.last, pa.int64(), mask=self.last < 0).cast(TIMESTAMP),
                EVENT_TIMESTAMP: moment,
                # A vector is a function of the events before its cut-off alone, however late it is computed.
                CREATED: moment,
            }
        )


def events_read(arrays: EventArrays, slices: HistorySlices) -> tuple[Int64, Int64]:
    """For each pair the events of its window, and the newest one's time (-1: none); int64 [pairs]."""
    last = np.full(len(slices.cutoff), -1, dtype=np.int64)
    for column, events in enumerate(arrays.modalities):
        has = slices.stop[:, column] > slices.start[:, column]
        last[has] = np.maximum(last[has], events.time[slices.stop[has, column] - 1])
    return slices.window_events.sum(axis=1), last
