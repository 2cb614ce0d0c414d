"""A home and a registry with one model."""

from pathlib import Path

import pytest

from qanchor.home import Home
from qanchor.registry.migrate import prepare
from qanchor.registry.session import open_engine
from qanchor.registry.versions import register_model
from qanchor.site import Site
from tests.unit.embedding.world import make_workspace
from tests.unit.registry.rows import model


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """An empty home, and a registry with one model."""
    home = Home(tmp_path)
    url = f"sqlite:///{home.database}"
    engine = open_engine(url)
    prepare(engine, url)
    register_model(engine, model())
    return Site.at(make_workspace(tmp_path / "repo"), home, engine)
