"""The events of a few users, read from the log once and kept in memory for every question about them."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pyarrow as pa
from numpy.typing import NDArray

from qanchor.errors import NotReady
from qanchor.names import EVENT_DATE, EVENT_ID, EVENT_TIME, INGESTED_AT, USER_ID
from qanchor.storage.event_log import EventLog

if TYPE_CHECKING:
    import duckdb

_PLACE: Final = "filename, file_row_number"
# How far the clocks of consumers and of the disk may be apart.
_CLOCK_SECONDS: Final = 3_600.0


class LogRows:
    """A snapshot of the log's stored rows, repeats of an event_id included.

    Looking for repeats costs more than a scan, and the questions asked here need it for a few users at most.

    Args:
        log: the event log.
    """

    def __init__(self, log: EventLog) -> None:
        self._log = log
        self._connection = log.open_duckdb()
        self._files = log.files()

    def newest(self) -> datetime:
        """The newest event's time, UTC.

        Raises:
            NotReady: the log is empty.
        """
        last = [path for path in self._files if path.parent == self._files[-1].parent]
        moment = self._ask(f"SELECT max({EVENT_TIME}) AS newest", "true", (), last)["newest"][0].as_py()
        if moment is None:
            raise NotReady(
                "the event log is empty", "Run `qanchor-cli events load FILE` or `qanchor-cli consume`."
            )
        found: datetime = moment
        return found

    def arrived(self, since: datetime, before: datetime) -> tuple[pa.Array, datetime]:
        """Users with an event that has arrived since, ascending, and the last arrival of all, UTC.

        Args:
            since: arrivals after this, UTC.
            before: only events with event_time < before, UTC.
        """
        # A file is not older than its rows: the others need not be opened.
        oldest = since.timestamp() - _CLOCK_SECONDS
        recent = [path for path in self._files if path.stat().st_mtime >= oldest]
        users = self._users(f"{INGESTED_AT} > ? AND {EVENT_TIME} < ?", (since, before), recent)
        last = self._ask(f"SELECT max({INGESTED_AT}) AS last", "true", (), recent)["last"][0].as_py()
        return users, max(since, last or since)

    def between(self, start: datetime, stop: datetime) -> pa.Array:
        """Users with an event in start <= event_time < stop, ascending."""
        dates = [f"{EVENT_DATE}={moment.astimezone(UTC):%Y-%m-%d}" for moment in (start, stop)]
        files = [path for path in self._files if dates[0] <= path.parent.name <= dates[1]]
        return self._users(f"{EVENT_TIME} >= ? AND {EVENT_TIME} < ?", (start, stop), files)

    def _users(self, where: str, values: Sequence[Any], files: Sequence[Path]) -> pa.Array:
        found = self._ask(f"SELECT DISTINCT {USER_ID}", f"{where} ORDER BY {USER_ID}", values, files)
        return found[USER_ID].combine_chunks()

    def _ask(self, select: str, where: str, values: Sequence[Any], files: Sequence[Path]) -> pa.Table:
        rows = self._log.stored_rows(self._connection, files)
        return self._connection.execute(
            f"{select} FROM ({rows}) WHERE {where}", list(values)
        ).to_arrow_table()

    def of_users(self, users: Sequence[str] | NDArray[Any]) -> "UserEvents":
        """All events of some users, each event_id once, as the whole log shows them."""
        connection = self._connection
        connection.execute(f"CREATE VIEW stored AS {self._log.stored_rows(connection, self._files)}")
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
