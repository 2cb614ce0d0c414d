"""The registry's schema, brought to the newest version by alembic from within the program.

alembic is imported only when there is something to migrate: a command on a current database pays
one query.
"""

import logging
import sqlite3
from functools import partial
from pathlib import Path
from urllib.parse import quote

from sqlalchemy import Connection, Engine, create_engine, inspect, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DatabaseError

from qanchor.errors import DatabaseUnavailable, NotReady, StateError
from qanchor.registry.session import open_engine, sqlite_file, unavailable
from qanchor.shipped import migrations_folder

log = logging.getLogger(__name__)

# The newest revision under alembic/versions; a test compares the two.
HEAD = "0006"

_ADVISORY_LOCK = 7_163_252_409  # any number: it only has to be the same in every process


def prepare(engine: Engine, url: str) -> None:
    """Make sure that the registry's schema is the newest, before a command uses it.

    SQLite is created, or upgraded with one line in the log. A server's database is changed on request
    alone, because others may be working on it.

    Args:
        engine: the registry.
        url: SQLAlchemy URL of the engine.

    Raises:
        DatabaseUnavailable: the database does not answer; start it or correct the URL.
        NotReady: a PostgreSQL database is not at the newest schema; run `qanchor-cli db upgrade`.
        StateError: the schema is of a later qanchor; install that one.
    """
    revision = revision_of(engine)
    if revision == HEAD:
        return
    if make_url(url).get_backend_name() != "sqlite":
        _refuse_later(revision)
        state = f"is at schema {revision}, not {HEAD}" if revision else "has no schema yet"
        raise NotReady(f"the registry database {state}", "Run `qanchor-cli db upgrade`.")
    upgrade_engine(engine)
    if revision is not None:
        log.warning("the registry was upgraded from schema %s to %s", revision, HEAD)


def upgrade(url: str) -> str:
    """Bring the database at `url` to the newest schema; safe to repeat and to run twice at once.

    Returns:
        The revision it is at now.

    Raises:
        DatabaseUnavailable: the database does not answer or refuses the change; the message says why.
        StateError: the schema is of a later qanchor; install that one.
    """
    engine = open_engine(url)
    try:
        upgrade_engine(engine)
    finally:
        engine.dispose()
    return HEAD


def current(url: str) -> str | None:
    """The revision of the database at `url`; None without a schema. A file of SQLite is only read.

    Raises:
        DatabaseUnavailable: the database does not answer; start it or fix the URL.
        WorkspaceInvalid: the URL is malformed or names a driver that is not installed.
    """
    file = sqlite_file(url)
    if file is not None and not file.exists():
        return None
    engine = open_engine(url) if file is None else _open_for_reading(file)
    try:
        return revision_of(engine)
    finally:
        engine.dispose()


def _open_for_reading(file: Path) -> Engine:
    # Without a log of writes beside it the file is whole, and SQLite need not create one to read it.
    mode = "mode=ro" if file.with_name(f"{file.name}-wal").exists() else "immutable=1"
    return create_engine(
        "sqlite://", creator=partial(sqlite3.connect, f"file:{quote(str(file))}?{mode}", uri=True)
    )


def revision_of(engine: Engine) -> str | None:
    """As `current`, for an engine that is open."""
    try:
        with engine.connect() as connection:
            return _revision(connection)
    except DatabaseError as error:
        raise unavailable(engine, error) from error


def upgrade_engine(engine: Engine) -> None:
    """As `upgrade`, for an engine that is open."""
    try:
        with engine.begin() as connection:
            _lock(connection)
            revision = _revision(connection)
            _refuse_later(revision)
            if revision != HEAD:
                run_alembic(connection)
    except DatabaseError as error:
        raise DatabaseUnavailable(
            f"the registry's schema could not be upgraded: {error.orig}",
            "Start the database, or point QANCHOR_DATABASE__URL at an empty one or one of qanchor.",
        ) from error


def _revision(connection: Connection) -> str | None:
    if not inspect(connection).has_table("alembic_version"):
        return None
    revision: str | None = connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
    return revision


def _lock(connection: Connection) -> None:
    """Keep two processes from migrating at once, and all of it in one transaction."""
    if connection.dialect.name == "sqlite":
        # sqlite3 opens no transaction for DDL by itself: a kill half-way would leave half a schema.
        connection.exec_driver_sql("BEGIN IMMEDIATE")
    elif connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _ADVISORY_LOCK})


def _refuse_later(revision: str | None) -> None:
    if revision is not None and revision > HEAD:
        raise StateError(
            f"the registry database is at schema {revision}, this qanchor knows {HEAD}",
            "Install the newer qanchor that wrote it.",
        )


def run_alembic(connection: Connection) -> None:
    """Run the missing migrations in the transaction of `connection`."""
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(migrations_folder()).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
