"""Feast's DuckDB offline store over folders of part files, joined as of each label's moment."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
from feast import FeatureView, RepoConfig
from feast.data_source import DataSource
from feast.infra.offline_stores.duckdb import DuckDBOfflineStore, DuckDBOfflineStoreConfig
from feast.infra.registry.base_registry import BaseRegistry
from feast.on_demand_feature_view import OnDemandFeatureView
from pydantic import StrictStr

from qanchor.errors import FeaturesInvalid
from qanchor.storage.feast_ext.asof import AsofRetrievalJob, read_labels, view_join
from qanchor.storage.feast_ext.views import part_folder, source_in_home, view_in_home

_CLASS = "qanchor.storage.feast_ext.offline_store.PartFilesOfflineStore"


class PartFilesOfflineStoreConfig(DuckDBOfflineStoreConfig):  # type: ignore[misc]  # Feast has no types
    """The `offline_store` section of feature_store.yaml."""

    type: StrictStr = _CLASS


class PartFilesOfflineStore(DuckDBOfflineStore):  # type: ignore[misc]  # Feast has no types
    """DuckDB that joins only rows that were known at the label's time."""

    @staticmethod
    def get_historical_features(  # noqa: PLR0913, PLR0917  # Feast's signature
        config: RepoConfig,
        feature_views: list[FeatureView],
        feature_refs: list[str],
        entity_df: pd.DataFrame | str,
        registry: BaseRegistry,
        project: str,
        full_feature_names: bool = False,
        **_options: Any,
    ) -> Any:
        """As Feast's, but a row that was created after the label's time is never joined.

        Feast does that only where the caller sets `filter_by_created_timestamp`; without it a backfill
        leaks into training frames. Views that are not in part files are joined by Feast.

        Raises:
            FeaturesInvalid: the entity frame lacks a key, or its key is no text.
        """
        joins = [view_join(config, view, feature_refs, full_feature_names) for view in feature_views]
        on_demand = OnDemandFeatureView.get_requested_odfvs(feature_refs, project, registry)
        ours = [join for join in joins if join is not None]
        if len(ours) < len(joins) or any(view.mode == "substrait" for view in on_demand):
            return DuckDBOfflineStore.get_historical_features(
                config,
                [view_in_home(view, config) for view in feature_views],
                feature_refs,
                entity_df,
                registry,
                project,
                full_feature_names,
                filter_by_created_timestamp=True,
            )
        labels = read_labels(entity_df)
        return AsofRetrievalJob(labels, ours, on_demand, full_feature_names, feature_refs, config.repo_path)

    @staticmethod
    def pull_latest_from_table_or_query(
        config: RepoConfig, data_source: DataSource, *rest: Any, **named: Any
    ) -> Any:
        """As Feast's, from the home of the repository that was opened."""
        source = source_in_home(data_source, config)
        return DuckDBOfflineStore.pull_latest_from_table_or_query(config, source, *rest, **named)

    @staticmethod
    def pull_all_from_table_or_query(
        config: RepoConfig, data_source: DataSource, *rest: Any, **named: Any
    ) -> Any:
        """As Feast's, from the home of the repository that was opened."""
        source = source_in_home(data_source, config)
        return DuckDBOfflineStore.pull_all_from_table_or_query(config, source, *rest, **named)

    @staticmethod
    def offline_write_batch(
        config: RepoConfig, feature_view: FeatureView, table: pa.Table, progress: Callable[[int], Any] | None
    ) -> None:
        """Refused for part files: Feast reads the whole source, adds the rows and rewrites it in place.

        Raises:
            FeaturesInvalid: the view is in part files.
        """
        if part_folder(feature_view, config) is not None:
            raise FeaturesInvalid(
                f"{feature_view.name} is in part files, which are never rewritten",
                "Write a part with FeatureRepository.write_part, or run `qanchor-cli backfill`.",
            )
        DuckDBOfflineStore.offline_write_batch(config, feature_view, table, progress)

    def validate_data_source(self, config: RepoConfig, data_source: DataSource) -> None:
        """As Feast's, but silent about a folder that this `feast apply` is about to create."""
        source = source_in_home(data_source, config)
        path = getattr(source, "path", "")
        if not Path(path).is_absolute() or Path(path).exists():
            super().validate_data_source(config, source)
