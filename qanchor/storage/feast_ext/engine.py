"""A Feast compute engine that writes the newest rows from part files to the online store, packed from Arrow.

It never reports rows that it did not write: `written` counts them, view by view.
"""

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any, Final, Literal

from feast import FeatureView
from feast.infra.common.materialization_job import MaterializationJobStatus, MaterializationTask
from feast.infra.compute_engines.local.compute import LocalComputeEngine, LocalComputeEngineConfig
from feast.infra.compute_engines.local.job import LocalMaterializationJob
from feast.infra.registry.base_registry import BaseRegistry
from pydantic import Field

from qanchor.storage.feast_ext.packing import TakesPackedRows, pack_rows
from qanchor.storage.feast_ext.views import part_folder, part_schema, view_in_home
from qanchor.storage.parts import ensure_part
from qanchor.storage.point_in_time import latest_rows, read_by_part

_CLASS: Final = "qanchor.storage.feast_ext.engine.ArrowComputeEngine"


class ArrowComputeEngineConfig(LocalComputeEngineConfig):  # type: ignore[misc]  # Feast has no types
    """The `batch_engine` section of feature_store.yaml."""

    type: Literal["qanchor.storage.feast_ext.engine.ArrowComputeEngine"] = _CLASS
    batch_rows: int = Field(20_000, gt=0, description="rows per write to the online store")
    overlap_days: float = Field(
        3.0, ge=0, description="how long before the last run a late row may have been created"
    )


class ArrowComputeEngine(LocalComputeEngine):  # type: ignore[misc]  # Feast has no types
    """Materializes views over part files; leaves every other source to Feast's local engine.

    Args:
        batch_rows: rows per write to the online store.
        overlap_days: rows created up to this long before the start count as new, however old their event.
        **options: of Feast's local engine.
    """

    def __init__(self, batch_rows: int = 20_000, overlap_days: float = 3.0, **options: Any) -> None:
        super().__init__(**options)
        self._batch_rows = batch_rows
        self._overlap = timedelta(days=overlap_days)
        self.written: dict[str, int] = {}

    def update(
        self,
        project: str,
        views_to_delete: Sequence[FeatureView],
        views_to_keep: Sequence[FeatureView],
        *rest: Any,
        **named: Any,
    ) -> None:
        """Give every view a zero-row part, so that materialize and joins work before the first row."""
        super().update(project, views_to_delete, views_to_keep, *rest, **named)
        for view in views_to_keep:
            folder = part_folder(view, self.repo_config)
            if folder is not None:
                ensure_part(folder, part_schema(view))

    def _materialize_one(self, registry: BaseRegistry, task: MaterializationTask, **options: Any) -> Any:
        view = task.feature_view
        folder = part_folder(view, self.repo_config)
        if folder is None or not view.online or not isinstance(self.online_store, TakesPackedRows):
            there = replace(task, feature_view=view_in_home(view, self.repo_config))
            return super()._materialize_one(registry, there, **options)
        rows = latest_rows(folder, task.start_time, task.end_time, self._overlap)
        self.written[view.name] = 0
        with task.tqdm_builder(len(rows.row)) as bar:
            for _, table in read_by_part(rows, part_schema(view), self._batch_rows):
                packed = pack_rows(table, view)
                self.online_store.write_packed(self.repo_config, view, packed)
                self.written[view.name] += len(packed.keys)
                bar.update(len(packed.keys))
        job = f"{view.name}-{task.start_time}-{task.end_time}"
        return LocalMaterializationJob(job_id=job, status=MaterializationJobStatus.SUCCEEDED)
