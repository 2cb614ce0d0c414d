"""One installation: its settings, workspace and home, and the stores that they point to.

Every use case of the library has the form `verb(site, request, progress) -> Result`.
"""

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from qanchor.home import Home
from qanchor.settings import Settings, load_settings
from qanchor.workspace import Workspace, load_workspace

if TYPE_CHECKING:
    from types import TracebackType

    from sqlalchemy import Engine

    from qanchor.storage.event_log import EventLog
    from qanchor.storage.features import FeatureRepository


class Site:
    """What a use case reads from and writes to; each part opens on first use.

    Args:
        settings: of this process.
        workspace: default: the two yaml files of the settings' feature repository.
        home: default: the folder that the settings name.
        engine: the registry's database; default: the one that the settings name.
        features: the feature repository; default: Feast, on this workspace and home.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        workspace: Workspace | None = None,
        home: Home | None = None,
        engine: "Engine | None" = None,
        features: "FeatureRepository | None" = None,
    ) -> None:
        self.settings = settings
        self.home = settings.state if home is None else home
        # Each part that was passed in takes the slot of its cached property.
        parts = {"workspace": workspace, "engine": engine, "features": features}
        self.__dict__.update({name: part for name, part in parts.items() if part is not None})

    @classmethod
    def open(cls) -> "Site":
        """The site of this process: the only reader of settings and environment.

        Raises:
            WorkspaceInvalid: a setting is unknown or invalid.
        """
        from qanchor.logs import configure_logging
        from qanchor.threads import limit_threads

        settings = load_settings()
        configure_logging(settings.log.level)
        limit_threads(settings.compute.threads)
        return cls(settings)

    @classmethod
    def of_repository(cls, repo: Path) -> "Site":
        """The site of a feature repository in the process of Feast, which sets up its own log and threads.

        Raises:
            WorkspaceInvalid: a setting is unknown or invalid.
        """
        return cls(load_settings(repo))

    @classmethod
    def at(
        cls,
        workspace: Workspace,
        home: Home,
        engine: "Engine | None" = None,
        features: "FeatureRepository | None" = None,
    ) -> "Site":
        """A site with default settings, whatever the environment says.

        Args:
            workspace: the two yaml files.
            home: folder of all state.
            engine: the registry's database; default: SQLite in the home.
            features: the feature repository; default: Feast, on this workspace and home.
        """
        settings = Settings.model_construct(home=home.root, repo=workspace.repo)
        return cls(settings, workspace=workspace, home=home, engine=engine, features=features)

    def with_parts(
        self,
        *,
        workspace: Workspace | None = None,
        home: Home | None = None,
        engine: "Engine | None" = None,
        features: "FeatureRepository | None" = None,
    ) -> "Site":
        """The same site with other parts; what is not named stays as it is, opened or not."""
        opened = self.__dict__
        return Site(
            self.settings,
            workspace=workspace or opened.get("workspace"),
            home=home or self.home,
            engine=engine or opened.get("engine"),
            features=features or opened.get("features"),
        )

    @cached_property
    def workspace(self) -> Workspace:
        """The two yaml files, validated.

        Raises:
            WorkspaceInvalid: a file is missing, is not YAML or breaks its schema.
        """
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

    @cached_property
    def features(self) -> "FeatureRepository":
        """Feast's offline and online store."""
        from qanchor.storage.features import FeatureRepository

        return FeatureRepository(self.workspace, self.home)

    @cached_property
    def event_log(self) -> "EventLog":
        """The event log, for readers; a writer opens one under its name."""
        from qanchor.storage.event_log import EventLog

        return EventLog(self.home.events, self.workspace)

    def close(self) -> None:
        """Give back the connections that were opened."""
        opened = self.__dict__
        if "features" in opened:
            self.features.close()
        if "engine" in opened:
            self.engine.dispose()

    def __enter__(self) -> "Site":
        return self

    def __exit__(
        self,
        kind: "type[BaseException] | None",
        error: "BaseException | None",
        trace: "TracebackType | None",
    ) -> None:
        self.close()


def locate(repo: Path) -> tuple[Workspace, Home]:
    """Workspace and home of a feature repository, for the definitions.py of repositories made by 0.1.0."""
    site = Site.of_repository(repo)
    return site.workspace, site.home
