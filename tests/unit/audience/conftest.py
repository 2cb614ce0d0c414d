"""A home and a registry with one model."""

from pathlib import Path

import pytest

from qanchor.site import Site
from tests.unit.embedding.world import site_with_model


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """An empty home, and a registry with one model."""
    return site_with_model(tmp_path)
