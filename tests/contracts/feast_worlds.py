"""Feast stores of several kinds over the same part files, for the contract suites."""

import importlib.util
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa

from qanchor.home import Home
from qanchor.shipped import template_folder
from qanchor.storage.parts import EMPTY_PART, ensure_part, list_parts, view_schemas, write_part
from tests.integration.conftest import small_workspace

T = datetime(2026, 3, 1, tzinfo=UTC)
GUARDED = "qanchor.storage.feast_ext.online_store.GuardedSqliteOnlineStore"
GUARDED_REDIS = "qanchor.storage.feast_ext.redis_store.GuardedRedisOnlineStore"
PART_FILES = "qanchor.storage.feast_ext.offline_store.PartFilesOfflineStore"
ARROW = "qanchor.storage.feast_ext.engine.ArrowComputeEngine"


@dataclass(frozen=True)
class FeastWorld:
    """A Feast store with the views of the small workspace, applied.

    Args:
        store: Feast's own object.
        home: where the part files lie.
        folder: of its registry and its SQLite online store.
    """

    store: Any
    home: Home
    folder: Path

    def write(self, view: str, rows: pa.Table, part: str = "p") -> None:
        """Write rows of a view to the offline store."""
        write_part(self.home.view(view), rows, part)

    def empty(self) -> None:
        """Remove all rows from the offline store."""
        for view in view_schemas(small_workspace()):
            for path in list_parts(self.home.view(view)):
                if path.stem != EMPTY_PART:
                    path.unlink()


def open_world(
    folder: Path, offline: dict[str, Any], online: dict[str, Any], engine: str, project: str = "p"
) -> FeastWorld:
    """A new store.

    Args:
        folder: of all its state.
        offline: Feast's section of that name.
        online: the same; SQLite where it names no type.
        engine: type of Feast's batch engine.
        project: tells stores on one server apart.
    """
    from feast import FeatureStore, RepoConfig

    folder.mkdir(parents=True, exist_ok=True)
    home = Home(folder / "home")
    for view, schema in view_schemas(small_workspace()).items():
        ensure_part(home.view(view), schema)
    config = RepoConfig(
        project=project,
        provider="local",
        registry={"registry_type": "sql", "path": f"sqlite:///{folder / 'registry.db'}"},
        online_store={"type": "sqlite", **online},
        offline_store=offline,
        batch_engine={"type": engine},
        materialization={"online_write_batch_size": 10_000},
        entity_key_serialization_version=3,
    )
    store = FeatureStore(config=config)
    store.apply(list(definitions(home).values()))
    return FeastWorld(store, home, folder)


def definitions(home: Home) -> dict[str, Any]:
    """What definitions.py makes of the small workspace, by name."""
    spec = importlib.util.spec_from_file_location("definitions", template_folder() / "definitions.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    defined: dict[str, Any] = module.define(small_workspace(), home)
    return defined


def foreign_objects(path: Path) -> list[Any]:
    """A view of two shops that is none of ours: one file, a key and a feature of other types.

    Args:
        path: Parquet file to write; shop 7 sold 1, then 2, which was noted five days late.
    """
    import pandas as pd
    from feast import Entity, FeatureView, Field, FileSource, ValueType
    from feast.types import Int32, Int64

    day = timedelta(days=1)
    rows = {"shop_id": [7, 7], "sales": [1, 2], "at": [T, T + day], "made": [T, T + 5 * day]}
    pd.DataFrame(rows).astype({"sales": "int32"}).to_parquet(path)
    shop = Entity(name="shop", join_keys=["shop_id"], value_type=ValueType.INT64)
    source = FileSource(path=str(path), timestamp_field="at", created_timestamp_column="made")
    fields = [Field(name="shop_id", dtype=Int64), Field(name="sales", dtype=Int32)]
    return [shop, FeatureView(name="shops", entities=[shop], schema=fields, source=source)]
