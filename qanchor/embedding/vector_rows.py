"""Vectors as rows of the offline store, with what was read to make them."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from qanchor.events.history import EventArrays, HistorySlices, Int64
from qanchor.names import (
    CREATED,
    EVENT_TIMESTAMP,
    LAST_EVENT_TS,
    MODEL_VERSION,
    N_EVENTS,
    USER_ID,
    embedding_field,
)

_MOMENT = pa.timestamp("us", tz="UTC")


@dataclass(frozen=True)
class VectorRows:
    """Vectors of one scenario, with what was read to make them.

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
        """The rows as the scenario's Feast view holds them."""
        rows, width = self.vectors.shape
        offsets = np.arange(0, rows * width + 1, width, dtype=np.int32)
        moment = _moments(self.cutoffs)
        return pa.table(
            {
                USER_ID: pa.array(self.users, pa.string()),
                embedding_field(scenario): pa.ListArray.from_arrays(offsets, self.vectors.reshape(-1)),
                MODEL_VERSION: pa.array([model_version] * rows, pa.string()),
                N_EVENTS: self.events,
                LAST_EVENT_TS: _moments(self.last, self.last < 0),
                EVENT_TIMESTAMP: moment,
                # A vector is a function of the events before its cut-off alone, however late it is computed.
                CREATED: moment,
            }
        )


def what_was_read(arrays: EventArrays, slices: HistorySlices) -> tuple[Int64, Int64]:
    """For each request the events of its window, and the newest one's time (-1: none); int64 [requests]."""
    last = np.full(len(slices.cutoff), -1, dtype=np.int64)
    for column, events in enumerate(arrays.modalities):
        has = slices.stop[:, column] > slices.start[:, column]
        last[has] = np.maximum(last[has], events.time[slices.stop[has, column] - 1])
    return slices.window_events.sum(axis=1), last


def _moments(microseconds: Int64, absent: NDArray[np.bool_] | None = None) -> pa.Array:
    return pa.array(microseconds, pa.int64(), mask=absent).cast(_MOMENT)
