"""Shared by integration tests: a feature repository that Feast has applied, once for each module."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import text
from sqlalchemy.engine import make_url

from qanchor.home import Home
from qanchor.registry import migrate
from qanchor.registry.session import open_engine
from qanchor.registry.tables import new_version
from qanchor.settings import DatabaseSettings
from qanchor.workspace import FieldSpec, ModalitySpec, ScenarioSpec, Workspace
from tests.integration.brokers import ThreadedBroker, threaded_broker
from tests.integration.clusters import apache, cluster  # noqa: F401  # fixtures

if TYPE_CHECKING:
    from qanchor.storage.features import FeatureRepository


def small_workspace() -> Workspace:
    """Two modalities, three scenarios of two domains; a repository without files."""
    pay = ModalitySpec(
        text="{shop}", fields={"shop": FieldSpec(type="text"), "paid": FieldSpec(type="number", amount=True)}
    )
    card = ModalitySpec(
        text="{tier}",
        profile=True,
        fields={"tier": FieldSpec(type="text"), "limit": FieldSpec(type="number")},
    )
    scenarios = {
        "fraud": ScenarioSpec(domain="risk", query="Is it fraud?", ttl_days=2),
        "money": ScenarioSpec(domain="risk", query="Is money late?", ttl_days=30),
        "promo": ScenarioSpec(domain="marketing", query="Will a coupon be used?", ttl_days=30),
    }
    return Workspace(Path("/nowhere"), 90, {"pay": pay, "card": card}, scenarios)


@pytest.fixture(scope="module")
def features(tmp_path_factory: pytest.TempPathFactory) -> "Iterator[FeatureRepository]":
    """The small workspace's feature repository, applied."""
    from qanchor.storage.features import FeatureRepository

    repository = FeatureRepository(small_workspace(), Home(tmp_path_factory.mktemp("home")))
    repository.apply()
    yield repository
    repository.close()


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[ThreadedBroker]:
    """An embedded broker in a thread."""
    with threaded_broker(tmp_path / "broker") as running:
        yield running


@pytest.fixture
def empty_postgres() -> Iterator[str]:
    """The URL of a new, empty database on the server that QANCHOR_TEST_POSTGRES names."""
    server = os.environ.get("QANCHOR_TEST_POSTGRES")
    if not server:
        pytest.skip("QANCHOR_TEST_POSTGRES names no PostgreSQL server")
    name = f"qanchor_{new_version()[-6:]}"
    admin = open_engine(server).execution_options(isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    yield make_url(server).set(database=name).render_as_string(hide_password=False)
    with admin.connect() as connection:
        connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
    admin.dispose()


@pytest.fixture
def postgres(empty_postgres: str) -> DatabaseSettings:
    """A new PostgreSQL database with the registry's tables."""
    migrate.upgrade(empty_postgres)
    return DatabaseSettings(url=empty_postgres)
