"""A workspace with labels and embeddings in service."""

from pathlib import Path

import pytest

from tests.unit.heads.fakes import World, add_manifest, small_world


@pytest.fixture
def world(tmp_path: Path) -> World:
    """Labels, and one manifest in service."""
    made = small_world(tmp_path)
    add_manifest(made)
    return made
