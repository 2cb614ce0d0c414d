"""The schema: alembic makes exactly the tables of the code, at any start, whole or not at all."""

import threading
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, inspect, text

from qanchor.errors import DatabaseUnavailable, NotReady, StateError
from qanchor.registry import migrate
from qanchor.registry.session import open_engine, require_schema
from qanchor.registry.tables import Base
from qanchor.shipped import migrations_folder


def _url(folder: Path) -> str:
    return f"sqlite:///{folder / 'registry.db'}"


def _tables(engine: Engine) -> set[str]:
    return set(inspect(engine).get_table_names())


def test_migrations_make_the_tables_of_the_code(tmp_path: Path) -> None:
    migrate.upgrade(_url(tmp_path))
    with open_engine(_url(tmp_path)).connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, Base.metadata) == []


def test_head_names_the_newest_migration() -> None:
    config = Config()
    config.set_main_option("script_location", str(migrations_folder()))
    config.set_main_option("path_separator", "os")
    assert ScriptDirectory.from_config(config).get_heads() == [migrate.HEAD]


def test_prepare_creates_a_sqlite_registry_silently(tmp_path: Path) -> None:
    engine = open_engine(_url(tmp_path))
    migrate.prepare(engine, _url(tmp_path))
    require_schema(engine)
    assert migrate.current(_url(tmp_path)) == migrate.HEAD


def test_prepare_works_in_memory() -> None:
    engine = open_engine("sqlite://")
    migrate.prepare(engine, "sqlite://")
    require_schema(engine)


def test_prepare_imports_no_alembic_where_nothing_is_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = open_engine(_url(tmp_path))
    migrate.prepare(engine, _url(tmp_path))
    monkeypatch.setattr(migrate, "upgrade_engine", pytest.fail)
    migrate.prepare(engine, _url(tmp_path))


def test_upgrade_may_be_repeated(tmp_path: Path) -> None:
    assert [migrate.upgrade(_url(tmp_path)) for _ in range(2)] == [migrate.HEAD] * 2


def test_a_failed_migration_leaves_no_half_schema(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = open_engine(_url(tmp_path))
    original = migrate.run_alembic

    def fail_at_the_end(connection: Connection) -> None:
        original(connection)
        raise KeyboardInterrupt

    monkeypatch.setattr(migrate, "run_alembic", fail_at_the_end)
    with pytest.raises(KeyboardInterrupt):
        migrate.prepare(engine, _url(tmp_path))
    assert _tables(engine) == set()
    monkeypatch.undo()
    migrate.prepare(engine, _url(tmp_path))
    require_schema(engine)


def test_two_processes_may_create_the_registry_at_once(tmp_path: Path) -> None:
    engines = [open_engine(_url(tmp_path)) for _ in range(2)]
    failures: list[BaseException] = []

    def prepare(engine: Engine) -> None:
        try:
            migrate.prepare(engine, _url(tmp_path))
        except StateError as error:  # what a losing thread would raise
            failures.append(error)

    threads = [threading.Thread(target=prepare, args=(engine,)) for engine in engines]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    require_schema(engines[0])


def test_schema_of_a_later_version_is_refused(tmp_path: Path) -> None:
    migrate.upgrade(_url(tmp_path))
    engine = open_engine(_url(tmp_path))
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(StateError, match="schema 9999"):
        migrate.prepare(engine, _url(tmp_path))


def test_a_foreign_database_is_refused_with_a_remedy(tmp_path: Path) -> None:
    engine = open_engine(_url(tmp_path))
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE heads (x INTEGER)"))
    with pytest.raises(DatabaseUnavailable, match="could not be upgraded"):
        migrate.prepare(engine, _url(tmp_path))
    assert _tables(engine) == {"heads"}


def test_a_server_database_waits_for_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = open_engine("sqlite://")
    with pytest.raises(NotReady, match="db upgrade"):
        migrate.prepare(engine, "postgresql+psycopg://127.0.0.1/qanchor")


def test_a_database_that_does_not_answer_is_named() -> None:
    with pytest.raises(DatabaseUnavailable, match="does not answer"):
        migrate.current("postgresql+psycopg://127.0.0.1:1/qanchor")
