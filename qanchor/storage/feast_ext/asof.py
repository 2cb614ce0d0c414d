"""Feast's historical features by an ASOF join over part files, vectors straight to float32.

The rows are those of Feast's join with `filter_by_created_timestamp=True`; they come in the order of the
entity frame, each of them exactly once.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import ibis
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from feast import FeatureView, RepoConfig
from feast.infra.offline_stores.duckdb import _write_data_source as write_data_source
from feast.infra.offline_stores.offline_store import RetrievalJob, RetrievalMetadata
from feast.infra.offline_stores.offline_utils import infer_event_timestamp_from_entity_df
from feast.saved_dataset import SavedDatasetStorage

from qanchor import names
from qanchor.storage.feast_ext.guards import RequestRefused
from qanchor.storage.feast_ext.views import part_folder, part_schema
from qanchor.storage.point_in_time import FOREVER, read_rows, rows_as_of
from qanchor.storage.sql import DatabaseError, connect
from qanchor.times import TIMESTAMP

# A list column counts its numbers in 32 bits.
_ROWS_PER_CHUNK: Final = 4_000_000
# Column of an entity frame that Feast joins.
_ROW: Final = "__qanchor_row"


@dataclass(frozen=True)
class ViewJoin:
    """One view's share of a frame.

    Args:
        folder: its part files.
        key: column of the labels that holds the user.
        columns: names and types of the features in the part files.
        titles: names of these features in the frame.
        ttl: how old a row may be.
    """

    folder: Path
    key: str
    columns: pa.Schema
    titles: Sequence[str]
    ttl: timedelta

    def join(self, labels: "Labels") -> list[pa.ChunkedArray]:
        """The features of each label's row, in the order of `titles`."""
        requests = pa.table({names.USER_ID: labels.users(self.key), names.AS_OF: labels.as_of})
        rows = read_rows(rows_as_of(self.folder, requests, self.ttl), self.columns)
        return [_as_lists(rows[name]) for name in self.columns.names]


@dataclass(frozen=True)
class FeastJoin:
    """A view outside part files: Feast joins it, and its rows are put in the order of the labels.

    Args:
        titles: names of the features in the frame.
        retrieve: Feast's job for an entity frame.
    """

    titles: Sequence[str]
    retrieve: Callable[[pd.DataFrame], RetrievalJob]

    def join(self, labels: "Labels") -> list[pa.ChunkedArray]:
        """The features of each label's row, in the order of `titles`."""
        frame = labels.table.to_pandas()
        joined = self.retrieve(frame.assign(**{_ROW: np.arange(len(frame))}))._to_arrow_internal()
        rows = joined.sort_by(_ROW)
        return [rows[title] for title in self.titles]


def feature_titles(view: FeatureView, feature_refs: Sequence[str], full: bool) -> dict[str, str]:
    """The requested features of a view, and the name that each has in the frame.

    Args:
        view: the Feast view with its projection.
        feature_refs: "view:feature" each, of all views.
        full: whether columns are named VIEW__FEATURE.
    """
    used = view.projection.name_to_use()
    prefix = f"{view.projection.name_alias or view.name}__" if full else ""
    features = [ref.split(":")[1] for ref in feature_refs if ref.startswith(f"{used}:")]
    return {name: prefix + name for name in features}


def view_join(
    config: RepoConfig, view: FeatureView, feature_refs: Sequence[str], full_feature_names: bool
) -> ViewJoin | None:
    """How a view is joined, or None where it is not in part files.

    Args:
        config: of the store that was opened.
        view: the Feast view with its projection.
        feature_refs: "view:feature" each, of all views.
        full_feature_names: whether columns are named VIEW__FEATURE.
    """
    folder = part_folder(view, config)
    if folder is None:
        return None
    titles = feature_titles(view, feature_refs, full_feature_names)
    schema = part_schema(view)
    return ViewJoin(
        folder=folder,
        key=(view.projection.join_key_map or {}).get(names.USER_ID, names.USER_ID),
        columns=pa.schema([schema.field(name) for name in titles]),
        titles=list(titles.values()),
        ttl=view.ttl or FOREVER,
    )


@dataclass(frozen=True)
class Labels:
    """The entity frame.

    Args:
        table: all its columns.
        moment: name of the column that says when each row was known.
    """

    table: pa.Table
    moment: str

    @property
    def as_of(self) -> pa.ChunkedArray:
        """The moments, UTC where they have no zone; to the microsecond.

        Raises:
            RequestRefused: they are texts that are no times.
        """
        column = self.table[self.moment]
        if not _is_text(column.type):
            return pc.cast(column, TIMESTAMP, safe=False)
        try:
            moments = pd.to_datetime(column.to_pandas(), utc=True, format="ISO8601")
        except ValueError as error:
            raise RequestRefused(
                f"the entity frame's {self.moment} holds text that is no time: {error}",
                "Write times as 2026-03-01T00:00:00Z.",
            ) from error
        return pa.chunked_array([pa.array(moments)]).cast(TIMESTAMP, safe=False)

    def users(self, key: str) -> pa.ChunkedArray:
        """The users of the rows.

        Raises:
            RequestRefused: there is no such column of text.
        """
        if key not in self.table.column_names:
            raise RequestRefused(
                f"the entity frame has no column {key!r}", f"Columns: {', '.join(self.table.column_names)}."
            )
        column = self.table[key]
        if pa.types.is_dictionary(column.type):
            column = column.cast(column.type.value_type)
        if not (pa.types.is_null(column.type) or _is_text(column.type)):
            raise RequestRefused(
                f"the entity frame's {key} is {column.type}, not text", "Convert it with astype(str)."
            )
        return column.cast(pa.string())


def read_labels(entity_df: pd.DataFrame | str) -> Labels:
    """The entity frame of a request to Feast.

    Args:
        entity_df: a pandas frame, or a query that DuckDB can run, such as one over Parquet files.

    Raises:
        RequestRefused: it is neither, or the query fails.
    """
    if isinstance(entity_df, str):
        with connect() as connection:
            try:
                table = connection.execute(entity_df).to_arrow_table()
            except DatabaseError as error:
                reason = str(error).splitlines()[0]
                raise RequestRefused(
                    f"the entity query fails: {reason}", "Fix it; it is DuckDB's SQL."
                ) from error
    elif isinstance(entity_df, pd.DataFrame):
        table = pa.Table.from_pandas(entity_df, preserve_index=False)
    else:
        raise RequestRefused(
            "this offline store joins rows to an entity frame alone",
            "Pass entity_df: a pandas frame, or a query for DuckDB.",
        )
    dtypes = table.schema.empty_table().to_pandas().dtypes
    return Labels(table, infer_event_timestamp_from_entity_df(dict(dtypes)))


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


class AsofRetrievalJob(RetrievalJob):  # type: ignore[misc]  # Feast has no types
    """A frame that is joined when it is read.

    Args:
        labels: the entity frame.
        joins: one for each view, in the order of the frame's columns.
        on_demand: Feast's on-demand views, computed from the joined columns.
        full_feature_names: whether columns are named VIEW__FEATURE.
        feature_refs: names of the requested features.
        repo_path: folder that relative paths of saved data sets start from.
    """

    def __init__(
        self,
        labels: Labels,
        joins: Sequence[ViewJoin | FeastJoin],
        on_demand: Sequence[Any],
        full_feature_names: bool,
        feature_refs: Sequence[str],
        repo_path: Path | None,
    ) -> None:
        super().__init__()
        self._labels, self._joins = labels, joins
        self._on_demand, self._full = list(on_demand), full_feature_names
        self._refs, self._repo_path = list(feature_refs), repo_path
        taken = set(labels.table.column_names)
        for title in (title for join in joins for title in join.titles):
            if title in taken:
                raise RequestRefused(
                    f"the frame would have two columns {title!r}",
                    "Rename that of the entity frame, or request full_feature_names.",
                )
            taken.add(title)

    @property
    def full_feature_names(self) -> bool:
        """Whether columns are named VIEW__FEATURE."""
        return self._full

    @property
    def on_demand_feature_views(self) -> list[Any]:
        """Feast's on-demand views that it computes from the joined columns."""
        return self._on_demand

    @property
    def metadata(self) -> RetrievalMetadata:
        """Metadata of a retrieval, for Feast's log."""
        span = pc.min_max(self._labels.as_of).as_py()
        keys = [name for name in self._labels.table.column_names if name != self._labels.moment]
        return RetrievalMetadata(self._refs, keys, span["min"], span["max"])

    def _to_arrow_internal(self, timeout: int | None = None) -> pa.Table:  # noqa: ARG002  # Feast's signature
        frame = self._labels.table
        for join in self._joins:
            for title, column in zip(join.titles, join.join(self._labels), strict=True):
                frame = frame.append_column(title, column)
        return frame

    def to_sql(self) -> str:
        """Refused: part of the join is no SQL.

        Raises:
            RequestRefused: always.
        """
        raise RequestRefused("this frame is not made by one SQL statement", "Use to_df() or to_arrow().")

    def _to_df_internal(self, timeout: int | None = None) -> pd.DataFrame:
        return self._to_arrow_internal(timeout).to_pandas()

    def persist(
        self, storage: SavedDatasetStorage, allow_overwrite: bool = False, timeout: int | None = None
    ) -> None:
        """Write the frame to a saved data set of Feast."""
        frame = ibis.memtable(self._to_arrow_internal(timeout))
        target = storage.to_data_source()
        write_data_source(frame, target, str(self._repo_path), "overwrite", allow_overwrite)


def _as_lists(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Vectors in the type of Feast's join, without a copy."""
    if not pa.types.is_fixed_size_list(column.type):
        return column
    width, chunks = column.type.list_size, []
    for array in column.chunks:
        for first in range(0, len(array), _ROWS_PER_CHUNK):
            some = array.slice(first, _ROWS_PER_CHUNK)
            values = array.values.slice((some.offset) * width, len(some) * width)
            offsets = pa.array(np.arange(len(some) + 1, dtype=np.int32) * np.int32(width))
            chunks.append(pa.ListArray.from_arrays(offsets, values, mask=some.is_null()))
    return pa.chunked_array(chunks, pa.list_(column.type.value_type))
