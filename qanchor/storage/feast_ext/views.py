"""The Feast views that are in part files of ours, and the columns of these.

Every other view - of another source, key, type, or made by a transformation - is left to Feast. A registry
holds absolute paths, and its home may have been copied or moved since: the parts of definitions.py's views
are always those of the home that was opened.
"""

from copy import copy
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
from feast import FeatureView, Field, RepoConfig
from feast.base_feature_view import BaseFeatureView
from feast.data_source import DataSource
from feast.infra.offline_stores.file_source import FileSource

from qanchor import names
from qanchor.home import Home
from qanchor.storage.feast_ext.home import home_of_config, is_home_known
from qanchor.times import TIMESTAMP

VECTOR: Final = "Array(Float32)"
_ARROW: Final[dict[str, pa.DataType]] = {
    VECTOR: pa.list_(pa.float32()),
    "Float64": pa.float64(),
    "Int64": pa.int64(),
    "String": pa.string(),
    "UnixTimestamp": TIMESTAMP,
}


def source_in_home(source: DataSource | None, config: RepoConfig) -> Any:
    """The source with the path that it has in the home of this configuration; others as they are."""
    if not isinstance(source, FileSource) or not is_home_known(config):
        return source
    registered = Path(source.path)
    # Named as definitions.py names them since 0.1.0, or not at all, and then Feast takes the path.
    is_ours = source.name in {names.parts_source(registered.name), source.path}
    above = registered.parent.parent
    if not (is_ours and registered.is_absolute() and registered == Home(above).view(registered.name)):
        return source
    moved = copy(source)
    moved.file_options = copy(source.file_options)
    moved.file_options.uri = str(home_of_config(config).view(registered.name))
    return moved


def view_in_home(view: BaseFeatureView, config: RepoConfig) -> Any:
    """The view on its source in the home of this configuration."""
    source = getattr(view, "batch_source", None)
    there = source_in_home(source, config)
    if there is source:
        return view
    moved = copy(view)
    moved.batch_source = there
    return moved


def is_in_parts(view: BaseFeatureView) -> bool:
    """Whether a view is made of part files, and keeps to their contract whatever its fields are."""
    source = getattr(view, "batch_source", None)
    if type(view) is not FeatureView or not isinstance(source, FileSource):
        return False
    path = Path(source.path)
    keys = [(column.name, str(column.dtype)) for column in view.entity_columns]
    return (
        path.is_absolute()
        and not path.suffix
        and keys == [(names.USER_ID, "String")]
        and source.timestamp_field == names.EVENT_TIMESTAMP
        and source.created_timestamp_column == names.CREATED
    )


def part_folder(view: BaseFeatureView, config: RepoConfig) -> Path | None:
    """The folder of a view's part files; None where it has none, or fields that Feast has to read.

    Args:
        view: the Feast view.
        config: of the store that was opened.
    """
    if not is_in_parts(view) or view.batch_source.field_mapping or not all(map(_is_plain, view.features)):
        return None
    return Path(source_in_home(view.batch_source, config).path)


def _is_plain(field: Field) -> bool:
    kind = str(field.dtype)
    if kind == VECTOR:
        return bool(field.vector_index and field.vector_length)
    return kind in _ARROW


def part_schema(view: FeatureView) -> pa.Schema:
    """Columns of the part files of a view that has a `part_folder`: key, features, times."""
    features = {field.name: _ARROW[str(field.dtype)] for field in view.features}
    times = {names.EVENT_TIMESTAMP: TIMESTAMP, names.CREATED: TIMESTAMP}
    return pa.schema({names.USER_ID: pa.string(), **features, **times})
