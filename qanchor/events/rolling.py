"""The activity view of users with new events: their events in memory, read by the view's query.

There is one definition of activity, `qanchor.events.activity`. Here it is computed for the few users of
new events, without a scan of the log.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from qanchor import names
from qanchor.aggregates import ACTIVITY_WINDOWS_DAYS
from qanchor.events.activity import activity_table
from qanchor.storage.event_log import EventSource
from qanchor.storage.sql import Connection, connect, literal, quote
from qanchor.times import DAY_US, TIMESTAMP
from qanchor.workspace import Workspace

_ROW: Final = np.dtype([("time", "i8"), ("id", "u8"), ("amount", "f8"), ("kind", "i2")])
_USER_COST: Final = 16  # in rows: memory of a user besides the rows
_WINDOW_US: Final = max(ACTIVITY_WINDOWS_DAYS) * DAY_US

Rows = np.ndarray[Any, Any]  # of _ROW: microseconds since the epoch, hash of event_id, NaN: no amount


class RollingActivity:
    """Activity of users as of just after their newest event, or later.

    It knows the log as it was when it read a user first, and what was added to it since. A user costs 26
    bytes for each event inside the longest window; the least recently requested users are
    forgotten first, and read again when needed.

    Args:
        log: the event log.
        workspace: names modalities and columns.
        most_events: rows kept in memory.
    """

    def __init__(self, log: EventSource, workspace: Workspace, most_events: int) -> None:
        self._log, self._workspace, self._most = log, workspace, most_events
        self._kinds = tuple(workspace.modalities)
        self._duckdb: Connection | None = None
        self.forget()

    def forget(self) -> None:
        """Forget all users; they are read again from the log when needed."""
        self._users: OrderedDict[str, Rows] = OrderedDict()
        self._size = 0
        self._complete: bool | None = None  # every user of the log is here; None: unknown yet

    def add(self, table: pa.Table) -> list[str]:
        """Add events that the log has; known ones change nothing.

        Args:
            table: with the log's columns.

        Returns:
            Their users.
        """
        if self._complete is None:
            self._read_all_if_few()
        users = []
        with self._connect(table) as connection:
            for user, rows in self._grouped(connection):
                users.append(user)
                # A user who is not here is read from the log when needed: it holds these events.
                if user in self._users or self._complete:
                    self._keep(user, rows)
        return users

    def features(self, users: Sequence[str], floors: Mapping[str, int]) -> pa.Table:
        """Activity of each user as of a microsecond after the newest event, or after a floor that is later.

        Args:
            users: each once; those without any event are left out.
            floors: by user the moment of the row that is served now, microseconds since the epoch.

        Returns:
            user_id, event_timestamp and created (both the moment), workspace.activity_columns.
        """
        if self._complete is None:
            self._read_all_if_few()
        self._read_missing(users)
        known = [user for user in users if user in self._users]
        moments = [max(int(self._users[u]["time"].max()), floors.get(u, 0)) + 1 for u in known]
        for user, moment in zip(known, moments, strict=True):
            self._prune(user, moment - _WINDOW_US)
        events = _as_events(known, [self._users[user] for user in known], self._workspace)
        source = _Source(lambda: self._connect(events))
        requests = pa.table({names.USER_ID: pa.array(known, pa.string()), names.AS_OF: _times(moments)})
        table = activity_table(source, self._workspace, requests)
        self._evict()
        return table

    def _keep(self, user: str, rows: Rows) -> None:
        known = self._users.get(user)
        merged = _first_of_each(rows) if known is None else _merged(known, rows)
        self._size += len(merged) - (-_USER_COST if known is None else len(known))
        self._users[user] = merged
        self._users.move_to_end(user)

    def _prune(self, user: str, since: int) -> None:
        rows = self._users[user]
        keep = rows["time"] >= since
        if keep.all():
            return
        for kind in np.unique(rows["kind"][~keep]):
            # The days since the last event reach back further than any window.
            here = np.flatnonzero(rows["kind"] == kind)
            keep[here[np.argmax(rows["time"][here])]] = True
        self._users[user] = rows[keep]
        self._size -= int((~keep).sum())

    def _evict(self) -> None:
        while self._size > self._most and self._users:
            _, rows = self._users.popitem(last=False)
            self._size -= len(rows) + _USER_COST
            self._complete = False

    def _read_all_if_few(self) -> None:
        with self._log.connect() as connection:
            count = connection.execute("SELECT count(*) FROM events").fetchone()
            self._complete = bool(count) and count[0] <= self._most
            if self._complete:
                for user, rows in self._grouped(connection):
                    self._keep(user, rows)

    def _read_missing(self, users: Sequence[str]) -> None:
        missing = [user for user in users if user not in self._users]
        for user in users:
            if user in self._users:
                self._users.move_to_end(user)
        if not missing or self._complete:
            return
        with self._log.connect() as connection:
            connection.register("missing", pa.table({names.USER_ID: pa.array(missing, pa.string())}))
            for user, rows in self._grouped(connection, "SEMI JOIN missing USING (user_id)"):
                self._keep(user, rows)

    def _connect(self, table: pa.Table) -> Connection:
        """A connection whose `events` are the table's rows; closing it forgets them."""
        if self._duckdb is None:
            self._duckdb = connect(threads=1)
        connection = self._duckdb.cursor()  # a tenth of the cost of a new database
        connection.execute("SET TimeZone='UTC'")
        connection.register("events", table)
        return connection

    def _grouped(self, connection: Connection, only: str = "") -> Iterator[tuple[str, Rows]]:
        amounts = " ".join(
            f"WHEN {literal(name)} THEN {quote(spec.amount)}"
            for name, spec in self._workspace.modalities.items()
            if spec.amount
        )
        amount = f"CASE modality {amounts} END" if amounts else "NULL"
        kinds = ", ".join(literal(kind) for kind in self._kinds)
        events = connection.execute(
            f"""
            SELECT user_id, epoch_us(event_time) AS time, hash(event_id) AS id,
                coalesce({amount}, 'NaN'::DOUBLE)::DOUBLE AS amount,
                list_position([{kinds}], modality) - 1 AS kind
            FROM events {only} WHERE modality IN ({kinds})
            """
        ).to_arrow_table()
        users = events["user_id"].combine_chunks().dictionary_encode()
        codes = users.indices.to_numpy()
        order = np.argsort(codes, kind="stable")
        rows = np.empty(len(codes), _ROW)
        for name in ("time", "id", "amount", "kind"):
            rows[name] = events[name].to_numpy()[order]
        starts = np.flatnonzero(np.diff(codes[order], prepend=-1)).tolist()
        ends = [*starts, len(rows)][1:]
        for user, start, end in zip(users.dictionary.to_pylist(), starts, ends, strict=True):
            yield user, rows[start:end].copy()  # a view would keep the whole query's rows


@dataclass(frozen=True)
class _Source:
    """An EventSource for `activity_table`."""

    connect: Callable[[], Connection]


def _as_events(users: Sequence[str], rows: Sequence[Rows], workspace: Workspace) -> pa.Table:
    every = np.concatenate([np.empty(0, _ROW), *rows])
    owners = np.repeat(np.arange(len(users), dtype=np.int32), [len(part) for part in rows])
    kinds = pa.array(list(workspace.modalities), pa.string())
    columns: dict[str, Any] = {
        names.USER_ID: pa.DictionaryArray.from_arrays(owners, pa.array(list(users), pa.string())),
        names.EVENT_TIME: _times(every["time"]),
        names.MODALITY: pa.DictionaryArray.from_arrays(every["kind"], kinds),
    }
    amounts = pa.array(np.ascontiguousarray(every["amount"]), from_pandas=True)  # NaN: null
    for spec in workspace.modalities.values():
        if spec.amount:
            columns[spec.amount] = amounts
    return pa.table(columns)


def _merged(known: Rows, rows: Rows) -> Rows:
    if len(rows) == 1 and not (known["id"] == rows["id"][0]).any():
        return np.concatenate([known, rows])
    return _first_of_each(np.concatenate([known, rows]))


def _first_of_each(rows: Rows) -> Rows:
    if len(rows) == 1:
        return rows
    _, first = np.unique(rows["id"], return_index=True)
    return rows if len(first) == len(rows) else rows[np.sort(first)]


def _times(micros: Sequence[int] | NDArray[np.int64]) -> pa.Array:
    return pa.array(np.ascontiguousarray(micros, np.int64)).cast(TIMESTAMP)
