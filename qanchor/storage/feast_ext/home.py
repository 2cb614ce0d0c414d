"""Where Feast's state lies: QANCHOR_HOME, or `.qanchor` beside the repository that Feast was pointed to."""

from pathlib import Path

import click

from qanchor.errors import WorkspaceInvalid
from qanchor.home import Home
from qanchor.settings import load_settings


def home_of(repo: Path | None) -> Home:
    """The home of a feature repository.

    Args:
        repo: its folder, where Feast told it; otherwise that of the running `feast` command, or
            the one that the environment and the working folder point to.

    Raises:
        WorkspaceInvalid: nothing says which repository is meant; state is never put in a guessed place.
    """
    settings = load_settings()
    folder = repo or _repo_of_command()
    if folder is not None:
        return settings.model_copy(update={"repo": folder}).state
    if settings.home is None and not (settings.repo_path / "modalities.yaml").exists():
        raise WorkspaceInvalid(
            f"{Path.cwd()} is no feature repository, so Feast's state has no place",
            "Set QANCHOR_HOME, or work in the repository.",
        )
    return settings.state


def _repo_of_command() -> Path | None:
    # `feast -c DIR` leaves the working folder alone and hands SQLAlchemy nothing but the URL.
    context = click.get_current_context(silent=True)
    shared = context.find_root().obj if context else None
    return shared.get("CHDIR") if isinstance(shared, dict) else None
