"""`sqlite:///feast_registry.db?plugin=qanchor_home`: Feast's SQL registry under the workspace's home.

Feast expands environment variables in feature_store.yaml, but it has no default, gives the registry no
repository path and accepts no registry class; a URL plug-in of SQLAlchemy is the only way.
"""

from pathlib import Path

from sqlalchemy import CreateEnginePlugin, Engine, event
from sqlalchemy.dialects import plugins
from sqlalchemy.engine import URL
from sqlalchemy.engine.interfaces import DBAPIConnection

from qanchor.storage.feast_ext.home import home_of

PLUGIN = "qanchor_home"


class HomeDatabase(CreateEnginePlugin):
    """Resolves a SQLite file name against the workspace's home."""

    def update_url(self, url: URL) -> URL:
        """The URL with an absolute path; its folder is created."""
        root = home_of(None).root
        root.mkdir(parents=True, exist_ok=True)
        path = root / Path(url.database or "feast_registry.db")
        return url.set(database=str(path)).difference_update_query(["plugin"])

    def engine_created(self, engine: Engine) -> None:
        """Let readers continue while `feast apply` or a materialization writes."""
        event.listen(engine, "connect", _tune)


def _tune(connection: DBAPIConnection, _record: object) -> None:
    cursor = connection.cursor()
    for pragma in ("journal_mode=WAL", "busy_timeout=30000"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def register() -> None:
    """Make the plug-in known to SQLAlchemy in this process."""
    plugins.register(PLUGIN, __name__, HomeDatabase.__name__)
