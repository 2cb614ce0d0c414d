"""The events of a few users, read from the log once and kept in memory for every question about them."""

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from numpy.typing import NDArray

from qanchor.errors import NotReady
from qanchor.names import EVENT_ID, EVENT_TIME, INGESTED_AT, USER_ID
from qanchor.storage.event_log import EventLog

if TYPE_CHECKING:
    import duckdb

_PLACE = "filename, file_row_number"


class LogRows:
    """A snapshot of the log's stored rows, repeats of an event_id included.

    Looking for repeats costs more than a scan, and the questions asked here need it for a few users at most.

    Args:
        log: the event log.

    Raises:
        NotReady: it is empty.
    """

    def __init__(self, log: EventLog) -> None:
        self._log = log
        self._connection = log.open_duckdb()
        self._connection.execute(f"CREATE VIEW stored AS {log.stored_rows(self._connection)}")

    def newest(self) -> tuple[datetime, datetime]:
        """The newest event's time and the last arrival, UTC.

        Raises:
            NotReady: the log is empty.
        """
        query = f"SELECT max({EVENT_TIME}), max({INGESTED_AT}) FROM stored"
        found = self._connection.execute(query).fetchall()[0]
        if found[0] is None:
            raise NotReady(
                "the event log is empty", "Run `qanchor-cli events load FILE` or `qanchor-cli consume`."
            )
        return found[0], found[1]

    def users_where(self, condition: str, values: Sequence[Any]) -> pa.Array:
        """The users with a stored row that an SQL condition holds for, ascending."""
        query = f"SELECT DISTINCT {USER_ID} FROM stored WHERE {condition} ORDER BY {USER_ID}"
        table = self._connection.execute(query, list(values)).to_arrow_table()
        return table[USER_ID].combine_chunks()

    def of_users(self, users: Sequence[str] | NDArray[Any]) -> "UserEvents":
        """All events of some users, each event_id once, as the whole log shows them."""
        connection = self._connection
        names = ", ".join(f'"{name}"' for name in self._log.schema.names)
        connection.register("chosen", pa.table({USER_ID: pa.array(users, pa.string())}))
        connection.execute(f"CREATE TABLE theirs AS SELECT * FROM stored SEMI JOIN chosen USING ({USER_ID})")
        # Another user's row may have the same id and have come first: then theirs does not count.
        connection.execute(
            f"""CREATE TABLE first_rows AS SELECT {EVENT_ID}, {_PLACE} FROM
            (SELECT {EVENT_ID}, {INGESTED_AT}, {_PLACE} FROM stored SEMI JOIN theirs USING ({EVENT_ID}))
            QUALIFY row_number() OVER (PARTITION BY {EVENT_ID} ORDER BY {INGESTED_AT}, {_PLACE}) = 1"""
        )
        connection.execute(
            f"CREATE VIEW events AS SELECT {names} FROM theirs SEMI JOIN first_rows USING ({_PLACE})"
        )
        return UserEvents(connection)

    def close(self) -> None:
        """Give the memory back; what `of_users` gave can no longer be read."""
        self._connection.close()


class UserEvents:
    """Events of some users; an EventSource, as the log is.

    Args:
        connection: with the view `events`; stays the owner's.
    """

    def __init__(self, connection: "duckdb.DuckDBPyConnection") -> None:
        self._connection = connection

    def connect(self) -> Any:
        """A DuckDB connection in UTC with the view `events`, each event once."""
        cursor = self._connection.cursor()
        cursor.execute("SET TimeZone='UTC'")
        return cursor
