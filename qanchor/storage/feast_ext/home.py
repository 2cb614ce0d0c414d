"""The home of Feast's state: QANCHOR_HOME, or `.qanchor` in the folder of Feast's repository."""

from pathlib import Path

import click

from qanchor.errors import WorkspaceInvalid
from qanchor.home import Home
from qanchor.settings import load_settings


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
    # `feast -c DIR` leaves the working folder alone and passes SQLAlchemy nothing but the URL.
    context = click.get_current_context(silent=True)
    shared = context.find_root().obj if context else None
    return shared.get("CHDIR") if isinstance(shared, dict) else None
