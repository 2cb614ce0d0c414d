"""Events of a table -> Kafka messages, as the consumer reads them."""

from collections.abc import Iterator
from itertools import starmap
from typing import Final, NamedTuple

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from qanchor import names
from qanchor.events.columns import attribute
from qanchor.events.schema import EventDecoder

_SLICE: Final = 10_000  # rows; the first message leaves while the others are still columns


class Message(NamedTuple):
    """A Kafka message before it is sent."""

    user: str
    value: bytes
    is_valid: bool = True


def encode_table(decoder: EventDecoder, table: pa.Table) -> Iterator[Message]:
    """Valid events as messages, in the order of the rows.

    Args:
        decoder: whose rules the events keep.
        table: with the event log's columns.
    """
    for start in range(0, table.num_rows, _SLICE):
        yield from _encode_slice(decoder, table.slice(start, _SLICE).combine_chunks())


def _encode_slice(decoder: EventDecoder, table: pa.Table) -> Iterator[Message]:
    values = np.empty(table.num_rows, dtype=object)
    for modality, kind in decoder.types.items():
        rows = np.flatnonzero(pc.equal(table[names.MODALITY], modality).to_numpy())
        if len(rows):
            values[rows] = _encode_rows(kind, table.take(pa.array(rows)))
    return map(Message, table[names.USER_ID].to_pylist(), values.tolist())


def _encode_rows(kind: type[msgspec.Struct], part: pa.Table) -> list[bytes]:
    originals = {attribute(name): name for name in part.column_names}
    columns = [
        _instants(part[names.EVENT_TIME]) if field == names.EVENT_TIME else part[originals[field]].to_pylist()
        for field in kind.__struct_fields__
    ]
    # The types that messages are decoded with encode them, too: what is None is left out.
    return list(map(msgspec.json.encode, starmap(kind, zip(*columns, strict=True))))


def _instants(times: pa.ChunkedArray) -> list[str]:
    texts = pc.replace_substring(times.cast(pa.timestamp("us")).cast(pa.string()), " ", "T")
    instants: list[str] = pc.binary_join_element_wise(texts, "Z", "").to_pylist()
    return instants
