"""One user's events with some of them left out, as an event log: what deletion is judged by.

Vectors, aggregates and profile of the edited histories come from the code that computes them for real users.
"""

from collections.abc import Sequence
from datetime import datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from qanchor.names import EVENT_ID, EVENT_TIME, MODALITY, USER_ID
from qanchor.storage.event_log import EventSource
from qanchor.storage.sql import Connection, connect_table
from qanchor.workspace import Workspace

Int64 = NDArray[np.int64]


def read_events(log: EventSource, workspace: Workspace, users: Sequence[str], before: datetime) -> pa.Table:
    """The events of some users before a moment, sorted as `EventArrays` sorts them.

    Args:
        log: the event log.
        workspace: names the modalities.
        users: whose.
        before: cut-off, with a zone.

    Returns:
        Every column of the log, by user, modality in the order of the workspace, time and event_id.
    """
    with log.connect() as connection:
        connection.register("wanted", pa.table({USER_ID: pa.array(list(users), pa.string())}))
        query = (
            f"SELECT * FROM events WHERE {USER_ID} IN (SELECT {USER_ID} FROM wanted) "
            f"AND {EVENT_TIME} < $before"
        )
        table = connection.execute(query, {"before": before}).to_arrow_table()
    kind = pc.index_in(table[MODALITY], pa.array(list(workspace.modalities)))
    table = table.append_column("_kind", kind).filter(pc.is_valid(kind))
    order = [(name, "ascending") for name in (USER_ID, "_kind", EVENT_TIME, EVENT_ID)]
    return table.sort_by(order).drop_columns("_kind")


class EditedLog:
    """Copies of one user's history, each under a name of its own with other events left out.

    Args:
        events: of one user, as `read_events` sorts them.
        left_out: for each copy the rows that it lacks.
    """

    def __init__(self, events: pa.Table, left_out: Sequence[Int64]) -> None:
        self._events = events
        self._left_out = left_out
        # Names that sort by number, as EventArrays sorts its users.
        self.users = [f"{number:06d}" for number in range(len(left_out))]

    def connect(self) -> Connection:
        """A DuckDB connection in UTC with the copies as view `events`."""
        return connect_table(self._copies())

    def _copies(self) -> pa.Table:
        rows = np.arange(self._events.num_rows)
        kept = [np.setdiff1d(rows, some, assume_unique=True) for some in self._left_out]
        names = pa.array(np.repeat(self.users, [len(some) for some in kept]).tolist(), pa.string())
        table = self._events.take(pa.array(np.concatenate([rows[:0], *kept])))
        return table.set_column(table.column_names.index(USER_ID), USER_ID, names)
