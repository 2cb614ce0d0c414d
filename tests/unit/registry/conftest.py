"""A registry in memory."""

import pytest
from sqlalchemy import Engine

from qanchor.registry.session import open_engine
from qanchor.registry.tables import Base


@pytest.fixture
def engine() -> Engine:
    """An empty registry."""
    engine = open_engine("sqlite://")
    Base.metadata.create_all(engine)
    return engine
