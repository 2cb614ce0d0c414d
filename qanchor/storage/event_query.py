"""SQL over files of the event log, for DuckDB: each event_id once, whatever the files hold."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import duckdb


def file_list(files: Iterable[str]) -> str:
    """A list of paths as an SQL literal."""
    return "[" + ", ".join("'" + file.replace("'", "''") + "'" for file in files) + "]"


def open_events(
    files: Sequence[Path], columns: Iterable[Sequence[str]], where: str = "true"
) -> "duckdb.DuckDBPyConnection":
    """A DuckDB connection in UTC with the view `events` of files that hold each event once.

    Args:
        files: Parquet; without any, the view has no rows.
        columns: name and SQL type of each of the view's columns.
        where: SQL of the rows that it shows.
    """
    import duckdb

    connection = duckdb.connect(":memory:")
    connection.execute("SET TimeZone='UTC'")
    connection.execute("SET enable_progress_bar=false")
    if files:
        shown = ", ".join(f'"{name}"::{kind} AS "{name}"' for name, kind in columns)
        query = f"SELECT {shown} FROM read_parquet({file_list(str(path) for path in files)}) WHERE {where}"
    else:
        empty = ", ".join(f'NULL::{kind} AS "{name}"' for name, kind in columns)
        query = f"SELECT {empty} WHERE false"
    connection.execute(f"CREATE VIEW events AS {query}")
    return connection


def distinct_events(connection: "duckdb.DuckDBPyConnection", files: Sequence[str]) -> tuple[str, list[str]]:
    """A relation of the files' rows, and its columns; of rows with one event_id the first ingested counts.

    Args:
        connection: gets a temporary table `repeats` of the rows that do not count.
        files: paths, at least one; columns that some of them lack are NULL.

    Returns:
        What stands behind FROM, and the names of the files' columns.
    """
    plain, numbered = _scans(files)
    columns = [row[0] for row in connection.execute(f"DESCRIBE SELECT * FROM {plain}").fetchall()]
    if not _find_repeats(connection, plain, numbered):
        return plain, columns
    return f"{numbered} ANTI JOIN repeats USING (filename, file_row_number)", columns


def stored_events(connection: "duckdb.DuckDBPyConnection", files: Sequence[str]) -> tuple[str, list[str]]:
    """A relation of all of the files' rows, with the columns filename and file_row_number; and its columns.

    Args:
        connection: that will read it.
        files: as of `distinct_events`.
    """
    _, numbered = _scans(files)
    return numbered, [row[0] for row in connection.execute(f"DESCRIBE SELECT * FROM {numbered}").fetchall()]


def _scans(files: Sequence[str]) -> tuple[str, str]:
    """SQL that reads the files, without and with each row's place."""
    plain = f"read_parquet({file_list(files)}, union_by_name=true, hive_partitioning=false)"
    return plain, plain[:-1] + ", filename=true, file_row_number=true)"


def _find_repeats(connection: "duckdb.DuckDBPyConnection", plain: str, numbered: str) -> int:
    # Repeats are few: finding them once here is cheaper than a window function in every query.
    connection.execute(
        f"""CREATE OR REPLACE TEMP TABLE repeats AS SELECT filename, file_row_number FROM {numbered}
        SEMI JOIN (SELECT event_id FROM {plain} GROUP BY event_id HAVING count(*) > 1) USING (event_id)
        QUALIFY row_number() OVER
            (PARTITION BY event_id ORDER BY _ingested_at, filename, file_row_number) > 1"""
    )
    found = connection.execute("SELECT count(*) FROM repeats").fetchone()
    return int(found[0]) if found else 0
