"""One decoder of user events, generated from modalities.yaml, for Kafka messages and file rows alike.

On the wire an event is one flat JSON object:

    {"event_id": "...", "user_id": "u1", "event_time": "2026-11-20T10:15:00Z", "modality": "bill", ...}

`event_id` is optional: without it the id is derived from the content, so sending the same event again
adds nothing; who sends two equal events on purpose gives them ids. `...` stands for the modality's fields.
Fields that the modality does not name are ignored.
"""

import hashlib
import json
import keyword
import math
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import reduce
from operator import attrgetter, or_
from typing import Annotated, Any, Final, Protocol

import msgspec
import numpy as np
import pyarrow as pa

from qanchor import names
from qanchor.settings import EventSettings
from qanchor.storage.event_log import log_schema
from qanchor.workspace import FieldSpec, ModalitySpec, Workspace

MAX_ID_LENGTH: Final = 256
_PROVENANCE: Final = -3  # the log's last columns say where a row came from, the others what it says
_ID: Final = Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_ID_LENGTH)]
_TIME: Final = Annotated[datetime, msgspec.Meta(tz=True)]

# What msgspec says -> the reason on the dead letter. The first match counts.
_REASONS: Final = (
    (re.compile(r"missing required field"), "missing_field"),
    (re.compile(r"got `null`"), "missing_field"),
    (re.compile(r"Invalid value.*`\$\.modality`"), "unknown_modality"),
    (re.compile(r"with a timezone component"), "naive_time"),
    (re.compile(r"Invalid RFC3339"), "bad_time"),
    (re.compile(r"Expected `str` of length >="), "empty"),
    (re.compile(r"Expected `str` of length <="), "too_long"),
    (re.compile(r"Expected `float` [<>]=|out of range"), "out_of_range"),
    (re.compile(r"Expected `.*`, got `.*` - at `\$"), "wrong_type"),
)
_FIELD: Final = re.compile(r"at `\$\.([a-z0-9_]+)`|required field `([a-z0-9_]+)`")


class UserEvent(Protocol):
    """What every decoded event has, beside the fields of its modality."""

    event_id: str | None
    user_id: str
    event_time: datetime


class EventRejected(Exception):
    """An event that breaks the schema; it goes to the dead letters and stops nothing.

    Args:
        reason: short, snake_case, one of a closed set: missing_field, wrong_type, out_of_range, ...
        detail: one sentence that names the field at fault.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


def attribute(field: str) -> str:
    """The name of a field on a decoded event: its own, save that Python's keywords are capitalised."""
    return field.capitalize() if keyword.iskeyword(field) else field


def _field_type(spec: FieldSpec) -> Any:
    kind: Any
    if spec.type == "number":
        kind = Annotated[float, msgspec.Meta(ge=spec.minimum, le=spec.maximum)]
    else:
        kind = Annotated[str, msgspec.Meta(max_length=spec.max_length)]
    return kind | None if spec.optional else kind


def _event_type(modality: str, spec: ModalitySpec) -> type[msgspec.Struct]:
    fields: list[Any] = [(names.USER_ID, _ID), (names.EVENT_TIME, _TIME)]
    optional: list[Any] = [(names.EVENT_ID, _ID | None, None)]
    for name, field in spec.fields.items():
        if field.optional:
            optional.append((attribute(name), _field_type(field), None))
        else:
            fields.append((attribute(name), _field_type(field)))
    return msgspec.defstruct(
        f"Event_{modality}",
        fields + optional,
        tag_field=names.MODALITY,
        tag=modality,
        rename={attribute(name): name for name in spec.fields},
        omit_defaults=True,
        gc=False,
    )


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


class EventDecoder:
    """Turns Kafka messages and file rows into typed events, or says why not.

    Args:
        workspace: the modalities and their fields.
        settings: which times are absurd.
    """

    def __init__(self, workspace: Workspace, settings: EventSettings) -> None:
        self.workspace = workspace
        self.schema = log_schema(workspace)
        self._content = pa.schema(list(self.schema)[:_PROVENANCE])
        self._types = {name: _event_type(name, spec) for name, spec in workspace.modalities.items()}
        self._union = _union(self._types.values())
        self._decode = msgspec.json.Decoder(self._union).decode
        self._sorted = {name: sorted(spec.fields) for name, spec in workspace.modalities.items()}
        self._numbers = {field for spec in workspace.modalities.values() for field in spec.numbers}
        self._oldest = datetime.fromisoformat(settings.oldest).replace(tzinfo=UTC)
        self._future = timedelta(seconds=settings.future_seconds)
        self._latest = self._oldest

    @property
    def oldest(self) -> datetime:
        """Events before this time are refused."""
        return self._oldest

    def latest(self) -> datetime:
        """Events after this time are refused: some way ahead of now."""
        return datetime.now(UTC) + self._future

    @property
    def types(self) -> Mapping[str, type[msgspec.Struct]]:
        """By modality the type of its decoded events; its JSON encoding is the event on the wire."""
        return self._types

    def decode(self, payload: bytes) -> UserEvent:
        """The event of one Kafka message.

        Raises:
            EventRejected: it is no valid event; send it to the dead letters.
        """
        try:
            event: UserEvent = self._decode(payload)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise _explain(error, payload) from None
        except RecursionError:
            raise EventRejected("not_json", "JSON is nested too deeply") from None
        self._check_time(event.event_time)
        return event

    def decode_all(self, payloads: Iterable[bytes | None]) -> list[UserEvent] | None:
        """The events of many messages, at several times the speed of `decode`.

        Returns:
            Events in order; None if any message may have to be refused: `decode` says which, and why.
        """
        try:
            events = list(map(self._decode, payloads))  # type: ignore[arg-type]  # None is a TypeError
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, TypeError):
            return None
        times = list(map(_TIME_OF, events))
        inside = not times or (min(times) >= self._oldest and max(times) <= self._latest)
        return events if inside else None

    def convert(self, row: dict[str, Any]) -> UserEvent:
        """The event of one row of a file; absent fields are absent keys.

        Raises:
            EventRejected: it is no valid event; send it to the dead letters.
        """
        for name, value in row.items():
            if isinstance(value, float) and not math.isfinite(value):
                raise EventRejected("not_finite", f"{name} is {value}")
        try:
            event: UserEvent = msgspec.convert(row, self._union)
        except msgspec.ValidationError as error:
            raise _explain(error, b"") from None
        self._check_time(event.event_time)
        return event

    def _check_time(self, time: datetime) -> None:
        if time < self._oldest:
            raise EventRejected("too_old", f"event_time {time.isoformat()} is before {self._oldest:%Y-%m-%d}")
        if time > self._latest:
            # The limit moves with the clock; asking the clock for every event would cost more than decoding.
            self._latest = self.latest()
            if time > self._latest:
                raise EventRejected("in_the_future", f"event_time {time.isoformat()} lies ahead of the clock")

    def event_id(self, event: Any) -> str:
        """The event's own id, or the one derived from its content."""
        if event.event_id is not None:
            return str(event.event_id)
        modality = type(event).__struct_config__.tag
        values: list[Any] = []
        for name in self._sorted[modality]:
            value = getattr(event, attribute(name))
            if value is not None:
                values += (name, value)
        time_us = (event.event_time - _EPOCH) // _MICROSECOND
        return content_id(event.user_id, time_us, modality, values)

    def to_table(
        self,
        events: Sequence[UserEvent],
        partitions: Sequence[int] | None = None,
        offsets: Sequence[int] | None = None,
    ) -> Any:
        """Events as a table of the event log, in the order given.

        Args:
            events: decoded by this decoder.
            partitions: Kafka partition of each; default: none.
            offsets: Kafka offset of each; default: none.

        Returns:
            pyarrow table with log_schema's columns; `_ingested_at` is now.
        """
        slices = range(0, len(events), _SLICE)
        parts = [self._table(events[start : start + _SLICE]) for start in slices]
        table = pa.concat_tables(parts) if parts else self._content.empty_table()
        count = len(events)
        now = np.datetime64(datetime.now(UTC).replace(tzinfo=None), "us")
        columns = [
            *table.columns,
            pa.nulls(count, pa.int32()) if partitions is None else pa.array(partitions, pa.int32()),
            pa.nulls(count, pa.int64()) if offsets is None else pa.array(offsets, pa.int64()),
            pa.array(np.full(count, now), pa.timestamp("us", "UTC")),
        ]
        return pa.table(columns, schema=self.schema).combine_chunks()

    def _table(self, events: Sequence[Any]) -> Any:
        rows: dict[type[Any], list[int]] = defaultdict(list)
        for row, event in enumerate(events):
            rows[type(event)].append(row)
        parts = [self._columns(kind, [events[row] for row in owned]) for kind, owned in rows.items()]
        if len(parts) == 1:
            return parts[0]
        place = np.empty(len(events), np.int64)
        place[np.concatenate([*rows.values()])] = np.arange(len(events))
        return pa.concat_tables(parts).combine_chunks().take(pa.array(place))

    def _columns(self, kind: Any, events: Sequence[Any]) -> Any:
        """Events of one modality, column by column: what they say, without where they came from."""
        columns = dict(
            zip(kind.__struct_fields__, zip(*map(msgspec.structs.astuple, events), strict=True), strict=True)
        )
        ids = columns[names.EVENT_ID]
        columns[names.EVENT_ID] = [
            self.event_id(event) if known is None else known for known, event in zip(ids, events, strict=True)
        ]
        columns[names.MODALITY] = pa.repeat(kind.__struct_config__.tag, len(events))
        # Three times as fast as handing over datetimes, whose zone is asked for one by one.
        since = [time - _EPOCH for time in columns[names.EVENT_TIME]]
        columns[names.EVENT_TIME] = pa.array(since, pa.duration("us")).view(pa.timestamp("us", "UTC"))
        return pa.table(
            [
                pa.array(columns[attribute(field.name)], field.type)
                if attribute(field.name) in columns
                else pa.nulls(len(events), field.type)
                for field in self._content
            ],
            schema=self._content,
        )


# Events that become columns at once: many more do not fit the processor's cache and take twice as long.
_SLICE: Final = 10_000
_TIME_OF: Final = attrgetter(names.EVENT_TIME)
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)


def _explain(error: Exception, payload: bytes) -> EventRejected:
    text = str(error)
    for pattern, reason in _REASONS:
        if pattern.search(text):
            field = _FIELD.search(text)
            return EventRejected(reason, f"{field[1] or field[2]}: {text}" if field else text)
    if isinstance(error, msgspec.ValidationError):
        return EventRejected("wrong_type", text)
    return _explain_malformed(text, payload)


def _explain_malformed(text: str, payload: bytes) -> EventRejected:
    # Python's own json module writes NaN, which is no JSON: worth a reason of its own.
    found: list[str] = []
    try:
        json.loads(payload, parse_constant=found.append)
    except (ValueError, RecursionError):
        return EventRejected("not_json", text)
    return (
        EventRejected("not_finite", f"a number is {found[0]}") if found else EventRejected("not_json", text)
    )


def event_json_schema(workspace: Workspace) -> dict[str, Any]:
    """The JSON Schema of an event on the wire."""
    types = [_event_type(name, spec) for name, spec in workspace.modalities.items()]
    return msgspec.json.schema(reduce(or_, types))


class _Nothing(msgspec.Struct, tag_field=names.MODALITY, tag="\x00"):
    never: Annotated[int, msgspec.Meta(ge=1, le=0)]


def _union(types: Iterable[type[msgspec.Struct]]) -> Any:
    # msgspec lets a lone tagged type come without its tag; a union never does, so there is always one.
    return reduce(or_, types, _Nothing)
