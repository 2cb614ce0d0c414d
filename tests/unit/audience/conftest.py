"""A home and a registry with one model."""

from pathlib import Path

import pytest
from sqlalchemy import Engine

from qanchor.home import Home
from qanchor.registry.migrate import prepare
from qanchor.registry.session import open_engine
from qanchor.registry.versions import register_model
from tests.unit.registry.rows import model


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """An empty home."""
    return Home(tmp_path)


@pytest.fixture
def engine(home: Home) -> Engine:
    """A registry with one model."""
    url = f"sqlite:///{home.database}"
    engine = open_engine(url)
    prepare(engine, url)
    register_model(engine, model())
    return engine
