"""The one owner of DuckDB: how a connection is opened, and how names and values are written into SQL."""

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import duckdb
import pyarrow as pa
from duckdb import DuckDBPyConnection as Connection
from duckdb import Error as DatabaseError
from duckdb import IOException as FileError

from qanchor.errors import DiskFull

__all__ = [
    "VERSION",
    "Connection",
    "DatabaseError",
    "FileError",
    "connect",
    "connect_table",
    "file_list",
    "literal",
    "quote",
    "spill_failure_as_error",
]

VERSION: Final[str] = duckdb.__version__


def connect(
    threads: int = 0,
    memory_limit: str | None = None,
    spill: Path | None = None,
    config: Mapping[str, str] | None = None,
) -> Connection:
    """An in-memory DuckDB whose times are UTC, whatever zone the process has.

    Args:
        threads: DuckDB's threads; 0 takes the usable cores.
        memory_limit: such as "2GB"; default: four fifths of the machine's memory.
        spill: folder for what does not fit in memory; default: that of DuckDB.
        config: further settings of DuckDB, such as those of a sandbox.
    """
    options: dict[str, Any] = {"threads": threads or len(os.sched_getaffinity(0)), **(config or {})}
    if memory_limit:
        options["memory_limit"] = memory_limit
    connection = duckdb.connect(":memory:", config=options)
    for setting in ("TimeZone='UTC'", "enable_progress_bar=false", "parquet_metadata_cache=true"):
        connection.execute(f"SET {setting}")
    if spill is not None:
        connection.execute("SET temp_directory=?", [str(spill)])
    return connection


def connect_table(table: pa.Table, threads: int = 0) -> Connection:
    """An in-memory DuckDB with a view `events` of a table that has each event once."""
    connection = connect(threads)
    connection.register("events", table)
    return connection


@contextmanager
def spill_failure_as_error(task: str) -> Iterator[None]:
    """Turn DuckDB's lack of disk or memory into a DiskFull.

    Args:
        task: names the work for the message, such as "sort the events".

    Raises:
        DiskFull: disk or memory is full; free some space.
    """
    try:
        yield
    except (duckdb.IOException, duckdb.OutOfMemoryException) as error:
        reason = str(error).splitlines()[0]
        problem = "no space left to" if "No space left" in reason else "cannot"
        raise DiskFull(f"{problem} {task}: {reason}", "Free some space and run it again.") from error


def quote(name: str) -> str:
    """A name as an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str | Path) -> str:
    """A text or path as an SQL string."""
    return "'" + str(text).replace("'", "''") + "'"


def file_list(files: Iterable[str | Path]) -> str:
    """Paths as an SQL list of strings, for `read_parquet`."""
    return "[" + ", ".join(literal(file) for file in files) + "]"
