"""Arrow columns straight to the bytes that Feast's SQLite online store keeps, no object per number."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol, runtime_checkable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from feast import FeatureView, RepoConfig
from feast.infra.key_encoding_utils import serialize_entity_key
from feast.infra.online_stores.helpers import extract_text_and_num
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import FloatList, Value

from qanchor.storage.feast_ext.guards import check_vectors
from qanchor.storage.parts import Matrix, vectors_of
from qanchor.times import column_microseconds, to_microseconds

# A row of the store: key, feature, value, value_text, event and creation time in microseconds and in seconds.
StoredRow = tuple[bytes, str, bytes, str | None, int, int | None, int, int | None]
_SECOND: Final = 1_000_000
_VALUES: Final = {
    "Float64": "double_val",
    "Int64": "int64_val",
    "String": "string_val",
    "UnixTimestamp": "unix_timestamp_val",
}


@dataclass(frozen=True)
class PackedRows:
    """Rows of one view, column by column.

    Args:
        keys: serialized entity keys (rows).
        features: by name, each (serialized values, their texts or None) (rows).
        event_us: microseconds since epoch, UTC (rows).
        created_us: the same, or None (rows).
    """

    keys: Sequence[bytes]
    features: Mapping[str, tuple[Sequence[bytes], Sequence[str | None]]]
    event_us: Sequence[int]
    created_us: Sequence[int | None]

    def stored(self) -> Iterator[StoredRow]:
        """One stored row for each key and feature, sorted by key as the store is."""
        columns = [(name, *packed) for name, packed in self.features.items()]
        for i in sorted(range(len(self.keys)), key=self.keys.__getitem__):
            key, event, created = self.keys[i], self.event_us[i], self.created_us[i]
            times = (event, created, event // _SECOND, None if created is None else created // _SECOND)
            for name, values, texts in columns:
                yield key, name, values[i], texts[i], *times


@runtime_checkable
class TakesPackedRows(Protocol):
    """An online store that takes rows without protobuf messages."""

    def write_packed(self, config: RepoConfig, table: FeatureView, packed: PackedRows) -> None:
        """Write rows of a view; one that is older than what is stored changes nothing."""
        ...


def pack_rows(table: pa.Table, view: FeatureView) -> PackedRows:
    """Pack rows that Feast's generic path would turn into one protobuf message for each value.

    Args:
        table: columns of the view; one string join key, unmapped names.
        view: the Feast feature view.

    Raises:
        FeaturesInvalid: a vector is null, not finite or of the wrong width.
    """
    source = view.batch_source
    features = {
        field.name: _pack_vectors(table[field.name], view.name, field.vector_length)
        if field.vector_index
        else _pack_scalars(table[field.name], str(field.dtype))
        for field in view.features
    }
    created = source.created_timestamp_column
    return PackedRows(
        keys=_pack_keys(table[view.join_keys[0]], view.join_keys[0]),
        features=features,
        event_us=column_microseconds(table[source.timestamp_field]).tolist(),
        created_us=column_microseconds(table[created]).tolist() if created else [None] * len(table),
    )


def pack_batch(config: RepoConfig, view: FeatureView, data: Sequence[Any]) -> list[PackedRows]:
    """Rows in Feast's form, checked and packed one by one.

    Args:
        config: of the repository.
        view: the Feast feature view.
        data: (entity key, protobuf values by feature name, event time, creation time) of each row.

    Raises:
        FeaturesInvalid: a vector is not finite or of the wrong width.
    """
    check_vectors(view, (values for _, values, _, _ in data))
    version = config.entity_key_serialization_version
    return [
        PackedRows(
            [serialize_entity_key(entity, version)],
            {
                name: ([value.SerializeToString()], [extract_text_and_num(value, False)[0]])
                for name, value in values.items()
            },
            [to_microseconds(event)],
            [None if created is None else to_microseconds(created)],
        )
        for entity, values, event, created in data
    ]


def _pack_keys(users: pa.ChunkedArray, join_key: str) -> list[bytes]:
    probe = EntityKey(join_keys=[join_key], entity_values=[Value(string_val="")])
    # The key ends with the length of its value and the value, and the probe's value is empty.
    head = serialize_entity_key(probe, entity_key_serialization_version=3)[:-4]
    encoded = (user.encode() for user in users.to_pylist())
    return [head + len(user).to_bytes(4, "little") + user for user in encoded]


def _pack_vectors(column: pa.ChunkedArray, view: str, width: int) -> tuple[list[bytes], list[str | None]]:
    matrix = vectors_of(column, view, width)
    rows = len(matrix)
    size = width * matrix.itemsize
    head = vector_head(width)
    raw = matrix.astype("<f4", copy=False).tobytes()
    return [head + raw[i * size : (i + 1) * size] for i in range(rows)], [None] * rows


def vector_head(width: int) -> bytes:
    """The bytes before the packed little-endian float32 of a stored vector."""
    filled: bytes = Value(float_list_val=FloatList(val=[1.0] * width)).SerializeToString()
    return filled[: -4 * width]


def _pack_scalars(column: pa.ChunkedArray, kind: str) -> tuple[list[bytes], list[str | None]]:
    if pa.types.is_timestamp(column.type):
        # Feast keeps whole seconds of a feature that is a time.
        column = pc.floor_temporal(column, unit="second").cast(pa.timestamp("s", "UTC")).cast(pa.int64())
    elif pa.types.is_floating(column.type):
        return _pack_doubles(column)
    encoded = column.combine_chunks().dictionary_encode()
    protos = [Value(**{_VALUES[kind]: value}) for value in encoded.dictionary.to_pylist()]
    values = [proto.SerializeToString() for proto in protos]
    texts = [extract_text_and_num(proto, False)[0] for proto in protos]
    # Index -1 picks the null at the end.
    values.append(b"")
    texts.append(None)
    indexes = encoded.indices.fill_null(-1).to_pylist()
    return [values[i] for i in indexes], [texts[i] for i in indexes]


def _pack_doubles(column: pa.ChunkedArray) -> tuple[list[bytes], list[str | None]]:
    head = Value(double_val=1.0).SerializeToString()[:-8]  # before the eight bytes of any number
    numbers = column.to_numpy().astype("<f8", copy=False)
    raw = numbers.tobytes()
    values = [head + raw[at : at + 8] for at in range(0, len(raw), 8)]
    texts: list[str | None] = [str(number) for number in numbers.tolist()]
    # Feast cannot tell a missing number from NaN: both are stored as null.
    for i in np.flatnonzero(np.isnan(numbers)):
        values[i], texts[i] = b"", None
    return values, texts


def stored_vectors(blobs: Sequence[bytes], width: int) -> tuple[list[int], Matrix]:
    """Stored values back as one matrix, without those that are null or of another width.

    Args:
        blobs: serialized vectors, of 32 or 64 bits.
        width: dimensions of each.

    Returns:
        Index of each vector in `blobs`, and the vectors: float32, (rows, width).
    """
    head, tail = vector_head(width), 4 * width
    size = len(head) + tail
    kept, parts = [], []
    for i, blob in enumerate(blobs):
        if len(blob) == size and blob.startswith(head):
            kept.append(i)
            parts.append(blob[-tail:])
            continue
        value = Value()
        value.ParseFromString(blob)
        kind = value.WhichOneof("val")
        numbers = getattr(value, kind).val if kind in {"float_list_val", "double_list_val"} else ()
        if len(numbers) == width:
            kept.append(i)
            parts.append(np.asarray(numbers, "<f4").tobytes())
    return kept, np.frombuffer(b"".join(parts), "<f4").reshape(len(kept), width)
