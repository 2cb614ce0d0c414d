"""One decoder of user events, generated from modalities.yaml, for Kafka messages and file rows alike.

On the wire an event is one flat JSON object:

    {"event_id": "...", "user_id": "u1", "event_time": "2026-11-20T10:15:00Z", "modality": "bill", ...}

`event_id` is optional: without it the id is derived from the content, so sending the same event again
adds nothing; a sender of two equal events on purpose gives them ids. `...` are the modality's fields.
Fields that the modality does not name are ignored.
"""

import json
import math
import re
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from functools import reduce
from operator import attrgetter, or_
from typing import Annotated, Any, Final, Protocol

import msgspec

from qanchor import names
from qanchor.events.columns import EventTables, attribute
from qanchor.settings import EventSettings
from qanchor.times import now, read_moment
from qanchor.workspace import FieldSpec, ModalitySpec, Workspace

MAX_ID_LENGTH: Final = 256
_ID: Final = Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_ID_LENGTH)]
_TIME: Final = Annotated[datetime, msgspec.Meta(tz=True)]

# Message of msgspec -> reason on the dead letter. The first match counts.
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
    """What every decoded event has besides the fields of its modality."""

    event_id: str | None
    user_id: str
    event_time: datetime


class EventRejected(Exception):
    """An event that breaks the schema; it goes to the dead letters and stops nothing.

    Args:
        reason: short, snake_case, one of a closed set: missing_field, wrong_type, out_of_range, ...
        detail: one sentence that names the faulty field.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


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


class EventDecoder:
    """Turns Kafka messages and file rows into typed events, or gives the reason why not.

    Args:
        workspace: the modalities and their fields.
        settings: times that are refused.
    """

    def __init__(self, workspace: Workspace, settings: EventSettings) -> None:
        self.workspace = workspace
        self.tables = EventTables(workspace)
        self.schema = self.tables.schema
        self._types = {name: _event_type(name, spec) for name, spec in workspace.modalities.items()}
        self._union = _union(self._types.values())
        self._decode = msgspec.json.Decoder(self._union).decode
        self._oldest = read_moment(settings.oldest)
        self._future = timedelta(seconds=settings.future_seconds)
        self._latest = self._oldest

    @property
    def oldest(self) -> datetime:
        """Events before this time are refused."""
        return self._oldest

    def latest(self) -> datetime:
        """Events after this time are refused: now plus the permitted clock skew."""
        return now() + self._future

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
            Events in order; None if any message may have to be refused: `decode` finds which, and why.
        """
        try:
            events = list(map(self._decode, payloads))  # type: ignore[arg-type]  # None is a TypeError
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, TypeError):
            return None
        times = list(map(_TIME_OF, events))
        inside = not times or (min(times) >= self._oldest and max(times) <= self._latest)
        return events if inside else None

    def convert(self, row: dict[str, Any]) -> UserEvent:
        """The event of one row of a file; absent fields are absent keys, foreign fields are ignored.

        Raises:
            EventRejected: it is no valid event; send it to the dead letters.
        """
        spec = self.workspace.modalities.get(str(row.get(names.MODALITY)))
        if spec is not None:
            row = {name: value for name, value in row.items() if name in _KEYS or name in spec.fields}
        for name, value in row.items():
            if isinstance(value, float) and not math.isfinite(value):
                raise EventRejected("not_finite", f"{name} is {value}")
        try:
            event: UserEvent = msgspec.convert(row, self._union)
        except msgspec.ValidationError as error:
            if _holds_infinite(list(row.values())):
                raise EventRejected("not_finite", "a number within a list or map is not finite") from None
            raise _explain(error, b"") from None
        self._check_time(event.event_time)
        return event

    def _check_time(self, time: datetime) -> None:
        if time < self._oldest:
            raise EventRejected("too_old", f"event_time {time.isoformat()} is before {self._oldest:%Y-%m-%d}")
        if time > self._latest:
            # The limit moves with the clock; reading the clock for every event would cost more than decoding.
            self._latest = self.latest()
            if time > self._latest:
                raise EventRejected("in_the_future", f"event_time {time.isoformat()} is ahead of the clock")


_KEYS: Final = (names.EVENT_ID, names.USER_ID, names.EVENT_TIME, names.MODALITY)
_TIME_OF: Final = attrgetter(names.EVENT_TIME)


def _holds_infinite(value: object) -> bool:
    """Whether a number in it, however deep, is not finite."""
    if isinstance(value, dict):
        return _holds_infinite(list(value.values()))
    if isinstance(value, list):
        return any(map(_holds_infinite, value))
    return isinstance(value, float) and not math.isfinite(value)


def _explain(error: Exception, payload: bytes) -> EventRejected:
    text = str(error)
    if payload and (malformed := _explain_malformed(text, payload)).reason == "not_finite":
        return malformed  # whatever else is wrong before it, as for a row of a file
    for pattern, reason in _REASONS:
        if pattern.search(text):
            field = _FIELD.search(text)
            return EventRejected(reason, f"{field[1] or field[2]}: {text}" if field else text)
    if isinstance(error, msgspec.ValidationError):
        return EventRejected("wrong_type", text)
    return _explain_malformed(text, payload)


def _explain_malformed(text: str, payload: bytes) -> EventRejected:
    # Python's json module writes NaN, which is no JSON: it has a separate reason.
    constants: list[str] = []
    try:
        json.loads(payload, parse_constant=constants.append)
    except (ValueError, RecursionError):
        return EventRejected("not_json", text)
    if constants:
        return EventRejected("not_finite", f"a number is {constants[0]}")
    return EventRejected("not_json", text)


class _Nothing(msgspec.Struct, tag_field=names.MODALITY, tag="\x00"):
    never: Annotated[int, msgspec.Meta(ge=1, le=0)]


def _union(types: Iterable[type[msgspec.Struct]]) -> Any:
    # msgspec lets a lone tagged type come without its tag; a union never does, so there is always one.
    return reduce(or_, types, _Nothing)
