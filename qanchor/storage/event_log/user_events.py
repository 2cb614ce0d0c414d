"""The events of a few users, read from the log once and kept in memory for every query about them."""

import logging
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
from numpy.typing import NDArray

from qanchor.errors import NotReady
from qanchor.names import EVENT_DATE, EVENT_ID, EVENT_TIME, INGESTED_AT, USER_ID
from qanchor.storage.event_log.reading import LogReader
from qanchor.storage.event_log.user_copy import UserCopy, file_day, file_key, open_copy
from qanchor.storage.sql import Connection

log = logging.getLogger(__name__)

_ROW: Final = "filename, file_row_number"
_FIRST: Final = f"row_number() OVER (PARTITION BY {EVENT_ID} ORDER BY {INGESTED_AT}, {_ROW}) = 1"
# How far the clocks of consumers and of the disk may be apart.
_CLOCK_SECONDS: Final = 3_600.0


class LogRows:
    """A snapshot of the log's stored rows, repeats of an event_id included.

    Looking for repeats costs more than a scan, and the queries here need it for a few users at most.

    Args:
        log: the event log.
        copies: the folder of its copies by user, of which the newest is read; None: the log itself.
    """

    def __init__(self, log: LogReader, copies: Path | None = None) -> None:
        self._log = log
        self._connection = log.open_duckdb()
        self._files = log.files()
        self._copy = open_copy(copies, log) if copies is not None else None

    def newest(self) -> datetime:
        """The newest event's time, UTC.

        Raises:
            NotReady: the log is empty.
        """
        last = [path for path in self._files if path.parent == self._files[-1].parent]
        newest = self._select(f"SELECT max({EVENT_TIME}) AS newest", "true", (), last)["newest"]
        moment: datetime | None = newest[0].as_py()
        if moment is None:
            raise NotReady(
                "the event log is empty", "Run `qanchor-cli events load FILE` or `qanchor-cli consume`."
            )
        return moment

    def arrived(self, since: datetime, before: datetime) -> tuple[pa.Array, datetime]:
        """Users with an event that has arrived since, ascending, and the last arrival of all, UTC.

        Args:
            since: arrivals after this, UTC.
            before: only events with event_time < before, UTC.
        """
        recent = [path for path in self._files if self._may_hold(path, since)]
        users = self._users(f"{INGESTED_AT} > ? AND {EVENT_TIME} < ?", (since, before), recent)
        last = self._select(f"SELECT max({INGESTED_AT}) AS last", "true", (), recent)["last"][0].as_py()
        return users, max(since, last or since)

    def _may_hold(self, path: Path, since: datetime) -> bool:
        """Whether a file may hold arrivals after a moment."""
        known = self._copy.arrival(path) if self._copy is not None else None
        if known is not None:
            return known > since
        # A file is not older than its rows: the others need not be opened.
        return path.stat().st_mtime >= since.timestamp() - _CLOCK_SECONDS

    def between(self, start: datetime, stop: datetime) -> pa.Array:
        """Users with an event in start <= event_time < stop, ascending."""
        dates = [f"{EVENT_DATE}={moment.astimezone(UTC):%Y-%m-%d}" for moment in (start, stop)]
        files = [path for path in self._files if dates[0] <= path.parent.name <= dates[1] and start < stop]
        return self._users(f"{EVENT_TIME} >= ? AND {EVENT_TIME} < ?", (start, stop), files)

    def _users(self, where: str, values: Sequence[Any], files: Sequence[Path]) -> pa.Array:
        users = self._select(f"SELECT DISTINCT {USER_ID}", f"{where} ORDER BY {USER_ID}", values, files)
        return users[USER_ID].combine_chunks()

    def _select(self, select: str, where: str, values: Sequence[Any], files: Sequence[Path]) -> pa.Table:
        rows = self._log.stored_rows(self._connection, files)
        return self._connection.execute(
            f"{select} FROM ({rows}) WHERE {where}", list(values)
        ).to_arrow_table()

    def of_users(self, users: Sequence[str] | NDArray[Any]) -> "UserEvents":
        """All events of some users, each event_id once, as the whole log shows them."""
        chosen = pa.array(sorted(users), pa.string())
        self._connection.register("chosen", pa.table({USER_ID: chosen}))
        if self._copy is None or not self._read_copy(self._copy, chosen):
            self._choose(self._files, "events")
        return UserEvents(self._connection)

    def _read_copy(self, copy: UserCopy, chosen: pa.Array) -> bool:
        """Make the table `events` from the copy and what it lacks; whether the copy could be trusted."""
        changed = copy.changed_days(self._files)
        if changed is None:
            log.info("copy_by_user_not_read reason=%s", "dates with repeats in others have changed")
            return False
        try:
            self._connection.register("copied", copy.events_of(chosen.to_pylist(), changed))
            fresh = [
                path
                for path in self._files
                if copy.arrival(path) is None or file_day(file_key(path)) in changed
            ]
            self._choose(fresh, "added")
            doubtful = self._doubtful(copy, changed, fresh)
        except (OSError, ValueError) as error:  # pyarrow's and numpy's errors about damaged files are these
            log.warning("copy_by_user_not_read error=%r", str(error))
            return False
        self._settle(doubtful)
        return True

    def _choose(self, files: Sequence[Path], name: str) -> None:
        """Make a table of the chosen users' rows that come first among those of their event_id in some
        files."""
        connection = self._connection
        connection.execute(f"CREATE OR REPLACE VIEW stored AS {self._log.stored_rows(connection, files)}")
        connection.execute(
            f"CREATE OR REPLACE TABLE theirs AS SELECT * FROM stored SEMI JOIN chosen USING ({USER_ID})"
        )
        # Another user's row may have the same id and have come first: then theirs does not count.
        connection.execute(
            f"""CREATE OR REPLACE TABLE {name} AS SELECT {self._names} FROM theirs SEMI JOIN
            (SELECT {_ROW} FROM stored SEMI JOIN theirs USING ({EVENT_ID}) QUALIFY {_FIRST})
            USING ({_ROW})"""
        )

    def _doubtful(self, copy: UserCopy, changed: set[int], fresh: Sequence[Path]) -> pa.Table:
        """Ids that both the copy and the files that it lacks have a row of, one of them a chosen user's."""
        added = self._connection.execute(
            f"SELECT {EVENT_ID}, hash({EVENT_ID}) AS hashed FROM added"
        ).to_arrow_table()
        known = copy.holds(added["hashed"].to_numpy(), changed)
        rows = self._log.stored_rows(self._connection, fresh)
        again = self._connection.execute(
            f"SELECT DISTINCT {EVENT_ID} FROM ({rows}) SEMI JOIN copied USING ({EVENT_ID})"
        ).to_arrow_table()
        return pa.concat_tables([added.filter(pa.array(known)).select([EVENT_ID]), again])

    def _settle(self, doubtful: pa.Table) -> None:
        """Make the table `events`; the whole log decides whose row of a doubtful id comes first."""
        connection, names = self._connection, self._names
        connection.register("doubtful", doubtful)
        settled = ""
        if len(doubtful):
            rows = self._log.stored_rows(connection, self._files)
            settled = f"""UNION ALL SELECT {names} FROM
                (SELECT * FROM ({rows}) SEMI JOIN doubtful USING ({EVENT_ID}) QUALIFY {_FIRST})
                SEMI JOIN chosen USING ({USER_ID})"""
        connection.execute(
            f"""CREATE TABLE events AS
            SELECT {names} FROM copied ANTI JOIN doubtful USING ({EVENT_ID})
            UNION ALL SELECT {names} FROM added ANTI JOIN doubtful USING ({EVENT_ID}) {settled}"""
        )

    @property
    def _names(self) -> str:
        return ", ".join(f'"{name}"' for name in self._log.schema.names)

    def close(self) -> None:
        """Give the memory back; the result of `of_users` can no longer be read."""
        self._connection.close()


class UserEvents:
    """Events of some users; an EventSource, as the log is.

    Args:
        connection: has the relation `events`; its owner closes it.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def connect(self) -> Connection:
        """A DuckDB connection in UTC with the view `events`, each event once."""
        cursor = self._connection.cursor()
        cursor.execute("SET TimeZone='UTC'")
        return cursor
