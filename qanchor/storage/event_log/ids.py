"""Ids of events: an event_id is that of one event in the whole log, and readers show its first row only.

A row that has the id of another event would therefore disappear. It is found before it is written.
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from qanchor import names
from qanchor.storage.event_log.log import EventLog
from qanchor.storage.sql import Connection, file_list, quote

REUSED_ID = "reused_id"
REUSED_ID_REMEDY = (
    "Leave event_id out, and it is derived from the content; or make it unique in the whole log, such as"
    " the order's id and the line's number, and carry the order's id in a field of type key."
)
_MEMORY = "1GB"
_NEW, _REPEATED, _REUSED = range(3)


@dataclass(frozen=True)
class IdCheck:
    """What the ids of some rows mean.

    Args:
        repeated: bool [rows], rows of an event that the log, or an earlier row, has already.
        reused: bool [rows], rows with the id of another event.
    """

    repeated: NDArray[np.bool_]
    reused: NDArray[np.bool_]


class IdChecker:
    """Compares the ids of ONE file's batches, in order, with the log and with each other.

    It keeps 16 bytes for each event of the file and 8 for each of the log, and spills to the log's disk.

    Args:
        log: the event log; its files of this moment.
    """

    def __init__(self, log: EventLog) -> None:
        self._log = log
        self._connection: Connection | None = None
        self._columns = [f.name for f in log.schema if not f.name.startswith("_")]
        self._content = [name for name in self._columns if name != names.EVENT_ID]

    def check(self, table: pa.Table) -> IdCheck:
        """Judge the next batch.

        Args:
            table: rows with the log's columns.
        """
        connection = self._connect()
        rows = pa.array(np.arange(table.num_rows))
        connection.register("arriving", table.select(self._columns).append_column("_row", rows))
        content = ", ".join(quote(name) for name in self._content)
        connection.execute(
            f"""CREATE OR REPLACE TEMP TABLE batch AS SELECT *,
                hash(event_id) AS _id, hash({content}) AS _content,
                first_value(_content) OVER same_id AS _first_content, row_number() OVER same_id AS _nth
            FROM arriving WINDOW same_id AS (PARTITION BY event_id ORDER BY _row)"""
        )
        self._compare_with_log(connection)
        judged = connection.execute(
            f"""SELECT CASE
                WHEN l.same THEN {_REPEATED} WHEN NOT l.same THEN {_REUSED}
                WHEN coalesce(s.content, CASE WHEN _nth > 1 THEN _first_content END) IS NULL THEN {_NEW}
                WHEN coalesce(s.content, _first_content) = b._content THEN {_REPEATED} ELSE {_REUSED} END
            FROM batch b LEFT JOIN seen s ON s.id = b._id
            LEFT JOIN in_log l ON l.row = b._row ORDER BY b._row"""
        ).fetchnumpy()
        connection.execute(
            "INSERT INTO seen SELECT _id, _content FROM batch"
            " ANTI JOIN seen ON seen.id = batch._id WHERE _nth = 1"
        )
        outcome = np.asarray(next(iter(judged.values())))
        return IdCheck(outcome == _REPEATED, outcome == _REUSED)

    def _compare_with_log(self, connection: Connection) -> None:
        """By row whose id the log has: whether the log's event is the same; a field it lacks may be new."""
        connection.execute(
            "CREATE OR REPLACE TEMP TABLE candidates AS"
            " SELECT * FROM batch SEMI JOIN stored ON stored.id = batch._id"
        )
        same = " AND ".join(
            f"(l.{quote(name)} IS NULL OR l.{quote(name)} IS NOT DISTINCT FROM c.{quote(name)})"
            for name in self._content
        )
        connection.execute(
            f"""CREATE OR REPLACE TEMP TABLE in_log AS SELECT c._row AS row, bool_or({same}) AS same
            FROM candidates c JOIN ({self._stored}) l USING (event_id) GROUP BY c._row"""
        )

    def _connect(self) -> Connection:
        if self._connection is None:
            self._connection = self._log.open_duckdb(memory_limit=_MEMORY)
            files = self._log.files()
            self._stored = self._log.stored_rows(self._connection, files)
            ids = f"SELECT DISTINCT hash(event_id) AS id FROM read_parquet({file_list(files)})"
            self._connection.execute(
                f"CREATE TEMP TABLE stored AS {ids if files else 'SELECT 0::UBIGINT AS id WHERE false'}"
            )
            self._connection.execute("CREATE TEMP TABLE seen (id UBIGINT, content UBIGINT)")
        return self._connection
