"""What a command needs from outside, opened when it runs: settings, workspace, home, registry."""

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from qanchor.home import Home

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from qanchor.settings import Settings
    from qanchor.workspace import Workspace


@dataclass(frozen=True)
class Context:
    """One command's surroundings; the parts open on first use."""

    settings: "Settings"

    @property
    def home(self) -> Home:
        """Where state lives."""
        return self.settings.state

    @cached_property
    def workspace(self) -> "Workspace":
        """The two yaml files, validated."""
        from qanchor.workspace import load_workspace

        return load_workspace(self.settings.repo_path)

    @cached_property
    def engine(self) -> "Engine":
        """The registry's database; SQLite gets its schema on first use.

        Raises:
            DatabaseUnavailable: the database does not answer.
            NotReady: a PostgreSQL database has no schema yet; run `qanchor-cli db upgrade`.
        """
        from qanchor.registry.migrate import prepare
        from qanchor.registry.session import open_engine

        engine = open_engine(self.settings.database_url, self.settings.database.busy_seconds)
        prepare(engine, self.settings.database_url)
        return engine


def open_context() -> Context:
    """The context of this process.

    Raises:
        WorkspaceInvalid: a setting does not hold.
    """
    from qanchor.logs import configure_logging
    from qanchor.settings import load_settings
    from qanchor.threads import limit_threads

    settings = load_settings()
    configure_logging(settings.log.level)
    limit_threads(settings.compute.threads)
    return Context(settings)
