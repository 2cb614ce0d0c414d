"""The Feast views that are in part files of ours, and the columns of these.

Every other view - of another source, key, type, or made by a transformation - is left to Feast.
"""

from pathlib import Path
from typing import Final

import pyarrow as pa
from feast import FeatureView, Field
from feast.infra.offline_stores.file_source import FileSource

from qanchor import names
from qanchor.times import TIMESTAMP

_VECTOR: Final = "Array(Float32)"
_ARROW: Final[dict[str, pa.DataType]] = {
    _VECTOR: pa.list_(pa.float32()),
    "Float64": pa.float64(),
    "Int64": pa.int64(),
    "String": pa.string(),
    "UnixTimestamp": TIMESTAMP,
}


def part_folder(view: FeatureView) -> Path | None:
    """The folder of a view's part files; None where the view is not made of them."""
    source = getattr(view, "batch_source", None)
    if type(view) is not FeatureView or not isinstance(source, FileSource):
        return None
    path = Path(source.path)
    keys = [(column.name, str(column.dtype)) for column in view.entity_columns]
    plain = (
        path.is_absolute()
        and not path.suffix
        and not source.field_mapping
        and keys == [(names.USER_ID, "String")]
        and source.timestamp_field == names.EVENT_TIMESTAMP
        and source.created_timestamp_column == names.CREATED
        and all(_is_plain(field) for field in view.features)
    )
    return path if plain else None


def _is_plain(field: Field) -> bool:
    kind = str(field.dtype)
    if kind == _VECTOR:
        return bool(field.vector_index and field.vector_length)
    return kind in _ARROW


def part_schema(view: FeatureView) -> pa.Schema:
    """Columns of the part files of a view that has a `part_folder`: key, features, times."""
    features = {field.name: _ARROW[str(field.dtype)] for field in view.features}
    times = {names.EVENT_TIMESTAMP: TIMESTAMP, names.CREATED: TIMESTAMP}
    return pa.schema({names.USER_ID: pa.string(), **features, **times})
