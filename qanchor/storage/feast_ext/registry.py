"""`sqlite:///feast_registry.db?plugin=qanchor_home`: Feast's SQL registry under the workspace's home.

Feast expands environment variables in feature_store.yaml, but it has no default, gives the registry no
repository path and accepts no registry class; a URL plug-in of SQLAlchemy is the only way.
"""

import inspect
from pathlib import Path

from feast import FeatureStore, RepoConfig
from feast.infra.registry import sql
from sqlalchemy import Connection, CreateEnginePlugin, Delete, Engine, delete, event, select
from sqlalchemy.dialects import plugins
from sqlalchemy.engine import URL
from sqlalchemy.engine.interfaces import DBAPIConnection

from qanchor.storage.feast_ext.home import home_of, home_of_config

PLUGIN = "qanchor_home"


class HomeDatabase(CreateEnginePlugin):
    """Resolves a SQLite file name against the workspace's home."""

    def update_url(self, url: URL) -> URL:
        """The URL with an absolute path; its folder is created."""
        config = _config_of_opened_store()
        root = (home_of(None) if config is None else home_of_config(config)).root
        root.mkdir(parents=True, exist_ok=True)
        path = root / Path(url.database or "feast_registry.db")
        return url.set(database=str(path)).difference_update_query(["plugin"])

    def engine_created(self, engine: Engine) -> None:
        """Let readers continue while `feast apply` or a materialization writes, and `teardown` forget all."""
        event.listen(engine, "connect", _tune)
        event.listen(engine, "after_execute", _forget_versions)


def _config_of_opened_store() -> RepoConfig | None:
    """The configuration of the store that is opening its registry.

    Of all that Feast knows the URL alone arrives here, and neither the working folder nor the thread tells
    stores apart.
    """
    frame = inspect.currentframe()
    while frame is not None:
        store = frame.f_locals.get("self")
        if isinstance(store, FeatureStore):
            return store.config
        frame = frame.f_back
    return None


def _forget_versions(connection: Connection, statement: object, *_: object) -> None:
    """Delete the versions of a deleted project's views: Feast keeps them, and can then never apply again."""
    if isinstance(statement, Delete) and getattr(statement.table, "name", "") == "projects":
        versions, known = sql.feature_view_version_history, select(sql.projects.c.project_id)
        connection.execute(delete(versions).where(versions.c.project_id.not_in(known)))


def _tune(connection: DBAPIConnection, _record: object) -> None:
    cursor = connection.cursor()
    for pragma in ("journal_mode=WAL", "busy_timeout=30000"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def register() -> None:
    """Make the plug-in known to SQLAlchemy in this process."""
    plugins.register(PLUGIN, __name__, HomeDatabase.__name__)
