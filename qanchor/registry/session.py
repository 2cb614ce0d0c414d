"""Opening the registry's database: SQLite by default, PostgreSQL by URL."""

import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import Engine, create_engine, event, inspect
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DatabaseError, NoSuchModuleError, OperationalError
from sqlalchemy.orm import Session

from qanchor.errors import DatabaseUnavailable, NotReady, WorkspaceInvalid
from qanchor.registry.tables import Base

_SWITCH_ATTEMPTS = 200
_UPGRADE = "Run `qanchor-cli db upgrade`."


def _tune_sqlite(connection: sqlite3.Connection, _record: object) -> None:
    cursor = connection.cursor()
    _switch_to_wal(cursor)
    # FULL, because the ledger's transaction is the consumer's commit point: a power cut must not undo it.
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.close()


def _switch_to_wal(cursor: sqlite3.Cursor) -> None:
    """Once per file; SQLite's time-out does not cover this switch, so a second process waits here."""
    if cursor.execute("PRAGMA journal_mode").fetchone()[0] == "wal":
        return
    for attempt in range(_SWITCH_ATTEMPTS):
        try:
            cursor.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError:
            if attempt == _SWITCH_ATTEMPTS - 1:
                raise
            time.sleep(0.05)


def open_engine(url: str, busy_seconds: float = 30.0) -> Engine:
    """An engine for the registry; no connection is made yet, save that SQLite's folder is created.

    Args:
        url: SQLAlchemy URL.
        busy_seconds: how long SQLite waits for another writer.

    Raises:
        WorkspaceInvalid: the URL is malformed or names a driver that is not installed.
    """
    try:
        parsed = make_url(url)
        sqlite = parsed.get_backend_name() == "sqlite"
        if sqlite and parsed.database:
            Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
        engine = create_engine(
            parsed, connect_args={"timeout": busy_seconds} if sqlite else {}, pool_pre_ping=not sqlite
        )
    except (ArgumentError, NoSuchModuleError, ModuleNotFoundError) as error:
        raise WorkspaceInvalid(
            f"QANCHOR_DATABASE__URL is invalid: {error}",
            "Use sqlite:///FILE or postgresql+psycopg://HOST/NAME.",
        ) from error
    if sqlite:
        event.listen(engine, "connect", _tune_sqlite)
    return engine


def sqlite_file(url: str) -> Path | None:
    """The file of an SQLite database; None for a server, and for a URL that `open_engine` refuses."""
    try:
        parsed = make_url(url)
    except ArgumentError:
        return None
    return Path(parsed.database) if parsed.get_backend_name() == "sqlite" and parsed.database else None


def unavailable(engine: Engine, error: DatabaseError) -> DatabaseUnavailable:
    """The error of a database that failed: a file has permissions, a server has to be started."""
    if engine.dialect.name == "sqlite":
        return DatabaseUnavailable(
            f"the registry database failed: {error.orig}",
            f"Check the permissions and the disk of {engine.url.database}, and run the command again.",
        )
    return DatabaseUnavailable(
        f"the registry database does not answer: {error.orig}",
        "Start it, or correct QANCHOR_DATABASE__URL, and run the command again.",
    )


def require_schema(engine: Engine) -> None:
    """Check that the database answers and has every table.

    Raises:
        DatabaseUnavailable: it does not answer; start it or correct the URL.
        NotReady: a table is missing; run `qanchor-cli db upgrade`.
    """
    try:
        present = set(inspect(engine).get_table_names())
    except OperationalError as error:
        raise unavailable(engine, error) from error
    missing = sorted(set(Base.metadata.tables) - present)
    if missing:
        raise NotReady(f"the registry has no table {missing[0]!r}", _UPGRADE)


@contextmanager
def transaction(engine: Engine) -> Iterator[Session]:
    """A session that commits at the end, or rolls back and re-raises.

    Raises:
        DatabaseUnavailable: the database went away or stayed locked; the work is rolled back, run it again.
    """
    try:
        with Session(engine, expire_on_commit=False) as session, session.begin():
            yield session
    except OperationalError as error:
        raise unavailable(engine, error) from error
