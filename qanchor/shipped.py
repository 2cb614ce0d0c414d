"""Folders that are part of the library: in the installed wheel, or else in the checkout."""

from pathlib import Path

_LIBRARY = Path(__file__).resolve().parent


def migrations_folder() -> Path:
    """The alembic scripts."""
    return _find("_migrations", "alembic")


def template_folder() -> Path:
    """The feature repository that `qanchor-cli new` copies."""
    return _find("_template", "feature_repo")


def _find(packaged: str, source: str) -> Path:
    installed = _LIBRARY / packaged
    return installed if installed.is_dir() else _LIBRARY.parent / source
