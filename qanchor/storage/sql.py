"""The one owner of DuckDB: how a connection is opened, and how names and values are written into SQL."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import duckdb


def connect(
    threads: int = 0, memory_limit: str | None = None, spill: Path | None = None
) -> "duckdb.DuckDBPyConnection":
    """An in-memory DuckDB whose times are UTC, whatever zone the process has.

    Args:
        threads: DuckDB's threads; 0 takes the usable cores.
        memory_limit: such as "2GB"; default: DuckDB's own, four fifths of the machine's memory.
        spill: folder for what does not fit in memory; default: none is written.
    """
    import duckdb

    config: dict[str, Any] = {"threads": threads or len(os.sched_getaffinity(0))}
    if memory_limit:
        config["memory_limit"] = memory_limit
    connection = duckdb.connect(":memory:", config=config)
    for setting in ("TimeZone='UTC'", "enable_progress_bar=false", "parquet_metadata_cache=true"):
        connection.execute(f"SET {setting}")
    if spill is not None:
        connection.execute("SET temp_directory=?", [str(spill)])
    return connection


def quote(name: str) -> str:
    """A name as an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str | Path) -> str:
    """A text or path as an SQL string."""
    return "'" + str(text).replace("'", "''") + "'"


def file_list(files: Iterable[str | Path]) -> str:
    """Paths as an SQL list of strings, for `read_parquet`."""
    return "[" + ", ".join(literal(file) for file in files) + "]"
