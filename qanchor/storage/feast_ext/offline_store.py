"""Feast's DuckDB offline store over folders of part files."""

from pathlib import Path
from typing import Any

from feast.infra.offline_stores.duckdb import DuckDBOfflineStore, DuckDBOfflineStoreConfig
from pydantic import StrictStr

_CLASS = "qanchor.storage.feast_ext.offline_store.PartFilesOfflineStore"


class PartFilesOfflineStoreConfig(DuckDBOfflineStoreConfig):  # type: ignore[misc]  # Feast has no types
    """The `offline_store` section of feature_store.yaml."""

    type: StrictStr = _CLASS


class PartFilesOfflineStore(DuckDBOfflineStore):  # type: ignore[misc]  # Feast has no types
    """DuckDB, that joins what was known at the time unless it is asked otherwise."""

    @staticmethod
    def get_historical_features(*args: Any, **named: Any) -> Any:
        """As Feast's, but a row that was created after the label's time is never joined.

        Feast asks for that only where the caller sets `filter_by_created_timestamp`; without it a
        backfill leaks into training frames.
        """
        return DuckDBOfflineStore.get_historical_features(
            *args, **{**named, "filter_by_created_timestamp": True}
        )

    def validate_data_source(self, config: Any, data_source: Any) -> None:
        """As Feast's, but silent where this very `feast apply` is about to make the folder."""
        path = getattr(data_source, "path", "")
        if not Path(path).is_absolute() or Path(path).exists():
            super().validate_data_source(config, data_source)
