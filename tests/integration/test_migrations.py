"""The registry on PostgreSQL: the migrations make the tables of the code there too."""

import threading
from datetime import datetime

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from qanchor.errors import NotReady
from qanchor.progress import Silent
from qanchor.registry import migrate
from qanchor.registry.jobs import recorded_job
from qanchor.registry.manifests import active_manifest, begin_manifest
from qanchor.registry.session import open_engine, require_schema
from qanchor.registry.tables import Base, EmbeddingManifest, ModelVersion
from qanchor.registry.versions import active_model, register_model
from tests.unit.registry.rows import activate_manifest

pytestmark = pytest.mark.integration


def test_migrations_make_the_tables_of_the_code_on_postgresql(empty_postgres: str) -> None:
    assert migrate.upgrade(empty_postgres) == migrate.HEAD
    engine = open_engine(empty_postgres)
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, Base.metadata) == []
    engine.dispose()


def test_postgresql_is_changed_by_the_command_alone(empty_postgres: str) -> None:
    engine = open_engine(empty_postgres)
    with pytest.raises(NotReady, match="db upgrade"):
        migrate.prepare(engine, empty_postgres)
    assert migrate.current(empty_postgres) is None
    migrate.upgrade(empty_postgres)
    migrate.prepare(engine, empty_postgres)
    require_schema(engine)
    engine.dispose()


def test_two_upgrades_at_once_take_turns(empty_postgres: str) -> None:
    revisions: list[str] = []

    def upgrade() -> None:
        revisions.append(migrate.upgrade(empty_postgres))

    threads = [threading.Thread(target=upgrade) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert revisions == [migrate.HEAD] * 2


def test_versions_jobs_and_manifests_work_on_postgresql(empty_postgres: str) -> None:
    migrate.upgrade(empty_postgres)
    engine = open_engine(empty_postgres)
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
