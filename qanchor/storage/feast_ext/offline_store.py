"""Feast's DuckDB offline store over folders of part files, joined as of each label's moment."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
from feast import FeatureView, RepoConfig
from feast.data_source import DataSource
from feast.infra.offline_stores.duckdb import DuckDBOfflineStore, DuckDBOfflineStoreConfig
from feast.infra.registry.base_registry import BaseRegistry
from feast.on_demand_feature_view import OnDemandFeatureView
from pydantic import Field, StrictStr

from qanchor.storage.feast_ext.asof import (
    AsofRetrievalJob,
    FeastJoin,
    ViewJoin,
    feature_titles,
    read_labels,
    view_join,
)
from qanchor.storage.feast_ext.guards import RequestRefused
from qanchor.storage.feast_ext.views import is_in_parts, part_folder, source_in_home, view_in_home

_CLASS = "qanchor.storage.feast_ext.offline_store.PartFilesOfflineStore"


class PartFilesOfflineStoreConfig(DuckDBOfflineStoreConfig):  # type: ignore[misc]  # Feast has no types
    """The `offline_store` section of feature_store.yaml."""

    type: StrictStr = _CLASS
    created_filter_for_all: bool = Field(
        False, description="views outside part files, too, are joined only by rows created before the label"
    )


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
        filter_by_created_timestamp: bool = False,
        **_options: Any,
    ) -> Any:
        """As Feast's, in the order of the labels, and without leaks from part files.

        Of a view in part files no row is joined that was created after the label.
        Feast leaves these out only where the caller sets `filter_by_created_timestamp`; without it a
        backfill leaks into training frames. Views outside part files are joined by Feast, as the caller or
        `created_filter_for_all` says.

        Raises:
            RequestRefused: there is no entity frame, or it lacks a key, or its key is no text.
        """
        labels = read_labels(entity_df)
        filtered = filter_by_created_timestamp or config.offline_store.created_filter_for_all

        def retrieve(views: list[FeatureView], refs: list[str], created: bool, frame: pd.DataFrame) -> Any:
            return DuckDBOfflineStore.get_historical_features(
                config, views, refs, frame, registry, project, full_feature_names, created
            )

        on_demand = OnDemandFeatureView.get_requested_odfvs(feature_refs, project, registry)
        if any(view.mode == "substrait" for view in on_demand):
            views = [view_in_home(view, config) for view in feature_views]
            strict = filtered or any(is_in_parts(view) for view in views)
            return retrieve(views, feature_refs, strict, labels.table.to_pandas())
        joins: list[ViewJoin | FeastJoin] = []
        for view in feature_views:
            join: ViewJoin | FeastJoin | None
            join = view_join(config, view, feature_refs, full_feature_names)
            if join is None:
                titles = feature_titles(view, feature_refs, full_feature_names)
                refs = [f"{view.projection.name_to_use()}:{name}" for name in titles]
                strict = filtered or is_in_parts(view)
                there = [view_in_home(view, config)]
                join = FeastJoin(list(titles.values()), partial(retrieve, there, refs, strict))
            joins.append(join)
        return AsofRetrievalJob(labels, joins, on_demand, full_feature_names, feature_refs, config.repo_path)

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
            RequestRefused: the view is in part files.
        """
        if part_folder(feature_view, config) is not None:
            raise RequestRefused(
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
