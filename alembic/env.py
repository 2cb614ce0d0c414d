"""Connects alembic to the registry; executed by alembic, never imported."""

from alembic import context
from sqlalchemy import Connection

from qanchor.registry.session import open_engine
from qanchor.registry.tables import Base
from qanchor.settings import load_settings


def _migrate(connection: Connection) -> None:
    context.configure(connection=connection, target_metadata=Base.metadata, render_as_batch=True)
    with context.begin_transaction():
        context.run_migrations()


def _run() -> None:
    connection = context.config.attributes.get("connection")
    if connection is not None:
        _migrate(connection)
        return
    # The plain `alembic revision --autogenerate` of a developer: the same database as qanchor-cli's.
    with open_engine(load_settings().database_url).begin() as connection:
        _migrate(connection)


_run()
