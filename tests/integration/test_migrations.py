"""The registry on PostgreSQL: the migrations make the tables of the code there too."""

import os
import threading
from collections.abc import Iterator
from datetime import datetime

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import text
from sqlalchemy.engine import make_url

from qanchor.errors import NotReady
from qanchor.progress import Silent
from qanchor.registry import migrate
from qanchor.registry.jobs import recorded_job
from qanchor.registry.manifests import active_manifest, begin_manifest
from qanchor.registry.session import open_engine, require_schema
from qanchor.registry.tables import Base, EmbeddingManifest, ModelVersion, new_version
from qanchor.registry.versions import active_model, register_model
from tests.unit.registry.rows import activate_manifest

pytestmark = pytest.mark.integration


@pytest.fixture
def url() -> Iterator[str]:
    """A new, empty database on the server that QANCHOR_TEST_POSTGRES names."""
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


def test_migrations_make_the_tables_of_the_code_on_postgresql(url: str) -> None:
    assert migrate.upgrade(url) == migrate.HEAD
    engine = open_engine(url)
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, Base.metadata) == []
    engine.dispose()


def test_postgresql_is_changed_by_the_command_alone(url: str) -> None:
    engine = open_engine(url)
    with pytest.raises(NotReady, match="db upgrade"):
        migrate.prepare(engine, url)
    assert migrate.current(url) is None
    migrate.upgrade(url)
    migrate.prepare(engine, url)
    require_schema(engine)
    engine.dispose()


def test_two_upgrades_at_once_take_turns(url: str) -> None:
    revisions: list[str] = []
    threads = [threading.Thread(target=lambda: revisions.append(migrate.upgrade(url))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert revisions == [migrate.HEAD] * 2


def test_versions_jobs_and_manifests_work_on_postgresql(url: str) -> None:
    migrate.upgrade(url)
    engine = open_engine(url)
    for version in ("m1", "m2"):
        register_model(
            engine,
            ModelVersion(
                version=version,
                preset="tiny",
                path=f"models/{version}",
                content_hash=version,
                trained_until=datetime(2026, 1, 1),
                metrics={"loss": 1.5},
            ),
        )
    assert active_model(engine).version == "m2"
    with pytest.raises(ValueError, match="x"), recorded_job(engine, "tune", {}, Silent()):
        raise ValueError("x" * 900)
    row = EmbeddingManifest(
        scenario="money", model_version="m2", fingerprint="f", as_of=None, rows=0, content_hash="", path="p"
    )
    activate_manifest(engine, begin_manifest(engine, row), 3, "hash")
    assert active_manifest(engine, "money").rows == 3
    engine.dispose()
