"""The home of Feast's state: QANCHOR_HOME, or `.qanchor` beside the repository that was opened."""

from pathlib import Path
from typing import Final

import click
from feast import RepoConfig

from qanchor.errors import WorkspaceInvalid
from qanchor.home import Home
from qanchor.settings import load_settings

# Feast keeps further keys of a configuration: FeatureRepository passes its home by this one.
HOME_KEY: Final = "qanchor_home"


def home_of_config(config: RepoConfig) -> Home:
    """The home of the repository that a Feast store was opened with.

    Raises:
        WorkspaceInvalid: the configuration names no repository, and neither does the environment.
    """
    passed = getattr(config, HOME_KEY, None)
    return Home(Path(passed)) if passed else home_of(config.repo_path)


def is_home_known(config: RepoConfig) -> bool:
    """Whether the configuration or the environment names a repository or a home."""
    has_repo = bool(getattr(config, HOME_KEY, None)) or config.repo_path is not None
    return has_repo or load_settings().home is not None


def home_of(repo: Path | None) -> Home:
    """The home of a feature repository.

    Args:
        repo: folder of the repository, where Feast passes it; default: that of the running `feast`
            command, or else that of the environment and the working folder.

    Raises:
        WorkspaceInvalid: the repository is unknown; state is never put in a guessed folder.
    """
    folder = repo or _repo_of_command()
    settings = load_settings(folder)
    if folder is None and settings.home is None and not (settings.repo_path / "modalities.yaml").exists():
        raise WorkspaceInvalid(
            f"{Path.cwd()} is no feature repository, so the home of Feast's state is unknown",
            "Set QANCHOR_HOME, or work in the repository.",
        )
    return settings.state


def _repo_of_command() -> Path | None:
    # `feast -c DIR registry create-schema` opens no store, and passes SQLAlchemy nothing but the URL.
    context = click.get_current_context(silent=True)
    shared = context.find_root().obj if context else None
    return shared.get("CHDIR") if isinstance(shared, dict) else None
