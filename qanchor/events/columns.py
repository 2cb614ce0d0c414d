"""Decoded events -> tables of the event log.

Events of one modality share their fields. They are kept in a narrow table of those fields until a write joins
all of them: until then neither the columns of other modalities nor the order among modalities cost anything.
"""

import hashlib
import keyword
from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from qanchor import names
from qanchor.storage.event_log import log_schema
from qanchor.times import EPOCH, to_microseconds
from qanchor.workspace import Workspace

# Events that become columns at once: many more do not fit the processor's cache and take twice as long.
SLICE_EVENTS: Final = 10_000


def attribute(field: str) -> str:
    """The name of a field on a decoded event; Python's keywords are capitalised."""
    return field.capitalize() if keyword.iskeyword(field) else field


def content_id(user_id: str, time_us: int, modality: str, values: Iterable[Any]) -> str:
    """The id of an event that carries none: equal content, equal id.

    Args:
        user_id: whose event it is.
        time_us: its time, microseconds since the epoch, UTC.
        modality: its kind.
        values: name, value, name, value, ... of the fields that are present, sorted by name.
    """
    content = msgspec.json.encode((user_id, time_us, modality, *values))
    return hashlib.blake2b(content, digest_size=12).hexdigest()


class NarrowTable(NamedTuple):
    """Some events of one modality: only the columns that it has."""

    modality: str
    table: pa.Table


class EventTables:
    """Turns decoded events into tables.

    Args:
        workspace: the modalities and their fields.
        slice_events: number of events that become columns at once.
    """

    def __init__(self, workspace: Workspace, slice_events: int = SLICE_EVENTS) -> None:
        self._slice = slice_events
        self.schema = log_schema(workspace)
        self._types = {field.name: field.type for field in self.schema}
        self._sorted = {name: sorted(spec.fields) for name, spec in workspace.modalities.items()}

    def event_id(self, event: Any) -> str:
        """The event's id, or the one derived from its content."""
        if event.event_id is not None:
            return str(event.event_id)
        modality = type(event).__struct_config__.tag
        values: list[Any] = []
        for name in self._sorted[modality]:
            value = getattr(event, attribute(name))
            if value is not None:
                values += (name, value)
        time_us = to_microseconds(event.event_time)
        return content_id(event.user_id, time_us, modality, values)

    def narrow(self, events: Sequence[Any], partition: int, offsets: Sequence[int]) -> list[NarrowTable]:
        """Events of one partition as narrow tables; within a modality in their order.

        Args:
            events: decoded ones.
            partition: Kafka partition they came from.
            offsets: Kafka offset of each.
        """
        positions = np.asarray(offsets, np.int64)
        tables = []
        for start in range(0, len(events), self._slice):
            some, at = events[start : start + self._slice], positions[start : start + self._slice]
            rows: dict[type[Any], list[int]] = defaultdict(list)
            for row, event in enumerate(some):
                rows[type(event)].append(row)
            tables += [self._narrow(kind, [some[row] for row in of], at[of]) for kind, of in rows.items()]
        return [NarrowTable(modality, self._from(table, partition)) for modality, table in tables]

    def _from(self, table: pa.Table, partition: int) -> pa.Table:
        origin = pa.repeat(pa.scalar(partition, self._types[names.SOURCE_PARTITION]), table.num_rows)
        return table.append_column(names.SOURCE_PARTITION, origin)

    def _narrow(self, kind: Any, events: Sequence[Any], offsets: NDArray[np.int64]) -> NarrowTable:
        fields = kind.__struct_fields__
        columns = dict(zip(fields, zip(*map(msgspec.structs.astuple, events), strict=True), strict=True))
        columns[names.EVENT_ID] = [
            self.event_id(event) if known is None else known
            for known, event in zip(columns[names.EVENT_ID], events, strict=True)
        ]
        # Three times as fast as an array of datetimes, whose zones are read one by one.
        since = [time - EPOCH for time in columns.pop(names.EVENT_TIME)]
        times = pa.array(since, pa.duration("us")).view(self._types[names.EVENT_TIME])
        column_of = {field: field for field in fields}
        column_of |= {attribute(name): name for name in self._sorted[kind.__struct_config__.tag]}
        table = {
            column_of[field]: pa.array(values, self._types[column_of[field]])
            for field, values in columns.items()
        }
        return NarrowTable(
            kind.__struct_config__.tag,
            pa.table({**table, names.EVENT_TIME: times, names.SOURCE_OFFSET: offsets}),
        )

    def join(self, tables: Iterable[NarrowTable]) -> pa.Table:
        """One table of the event log: modality after modality, each in its order.

        Returns:
            pyarrow table with log_schema's columns; `_ingested_at` is now.
        """
        by_modality: dict[str, list[Any]] = defaultdict(list)
        for modality, table in tables:
            by_modality[modality].append(table)
        now = np.datetime64(datetime.now(UTC).replace(tzinfo=None), "us")
        parts = [
            self._widen(name, pa.concat_tables(some).combine_chunks(), now)
            for name, some in by_modality.items()
        ]
        return pa.concat_tables([self.schema.empty_table(), *parts])

    def _widen(self, modality: str, table: pa.Table, now: np.datetime64) -> pa.Table:
        count = table.num_rows
        present = {name: table[name] for name in table.column_names}
        present[names.MODALITY] = pa.repeat(modality, count)
        present[names.INGESTED_AT] = pa.array(np.full(count, now), self._types[names.INGESTED_AT])
        columns = [
            present[name] if name in present else pa.nulls(count, kind) for name, kind in self._types.items()
        ]
        return pa.table(columns, schema=self.schema)

    def in_order(self, events: Sequence[Any]) -> pa.Table:
        """Events that did not come through Kafka as one table, row i for event i."""
        joined = self.join(self.narrow(events, 0, range(len(events))))
        table = joined.take(pc.sort_indices(joined[names.SOURCE_OFFSET]))
        for name in (names.SOURCE_PARTITION, names.SOURCE_OFFSET):
            field = self.schema.field(name)
            nothing = pa.nulls(len(events), field.type)
            table = table.set_column(self.schema.get_field_index(name), field, nothing)
        return table
