"""Avro messages in Confluent's framing: a zero byte, the schema's id in four bytes, the record.

A message is read with its writer's schema from the registry and resolved into ours: what the writer has
more is ignored, optional fields that it lacks are absent. After that the rules are those of JSON messages.
"""

import io
import json
import struct
from collections.abc import Iterable
from typing import Any, Final, Protocol

import fastavro
from fastavro.schema import SchemaParseException, UnknownType

from qanchor.events.published import avro_schema
from qanchor.events.schema import EventDecoder, EventRejected, UserEvent
from qanchor.settings import EventSettings
from qanchor.workspace import Workspace

_FRAME: Final = struct.Struct(">bI")
_MAGIC: Final = 0
# What fastavro raises on bytes that are no record of the schema.
_DAMAGED: Final = (
    ValueError, TypeError, KeyError, IndexError, EOFError, OverflowError, MemoryError, RecursionError,
    struct.error,
)  # fmt: skip


class Schemas(Protocol):
    """Source of writers' schemas."""

    def schema(self, number: int) -> str | None:
        """The text of a schema, None if there is none of that id."""
        ...


class AvroDecoder(EventDecoder):
    """Decodes Avro messages; rows of files as its parent does.

    Args:
        workspace: the modalities and their fields.
        settings: which times are absurd.
        registry: the writers' schemas.
    """

    def __init__(self, workspace: Workspace, settings: EventSettings, registry: Schemas) -> None:
        super().__init__(workspace, settings)
        self._registry = registry
        self._readers: dict[int, tuple[Any, Any]] = {}

    def decode(self, payload: bytes) -> UserEvent:
        """The event of one Kafka message.

        Raises:
            EventRejected: it is no valid event; send it to the dead letters.
            StoreUnavailable: the registry does not answer; nothing may be committed.
        """
        if len(payload) < _FRAME.size or payload[0] != _MAGIC:
            raise EventRejected("not_avro", "no magic byte and schema id at the start")
        writer, reader = self._schemas(_FRAME.unpack_from(payload)[1])
        stream = io.BytesIO(payload)
        stream.seek(_FRAME.size)
        try:
            row: Any = fastavro.schemaless_reader(stream, writer, reader)
        except fastavro.read.SchemaResolutionError as error:
            raise EventRejected("schema_mismatch", " ".join(str(error).split())) from None
        except _DAMAGED as error:
            raise EventRejected("not_avro", f"{type(error).__name__}: {error}") from None
        if stream.tell() != len(payload):
            raise EventRejected("not_avro", f"{len(payload) - stream.tell()} bytes too many")
        return self.convert({name: value for name, value in row.items() if value is not None})

    def decode_all(self, payloads: Iterable[bytes | None]) -> list[UserEvent] | None:
        """The events of many messages.

        Returns:
            Events in order; None if any message may have to be refused: `decode` says which, and why.

        Raises:
            StoreUnavailable: the registry does not answer; nothing may be committed.
        """
        try:
            return [self.decode(payload or b"") for payload in payloads]
        except EventRejected:
            return None

    def _schemas(self, number: int) -> tuple[Any, Any]:
        schemas = self._readers.get(number)
        if schemas is None:
            text = self._registry.schema(number)
            if text is None:
                raise EventRejected("unknown_schema", f"the registry has no schema {number}")
            schemas = self._readers[number] = self._parse(number, text)
        return schemas

    def _parse(self, number: int, text: str) -> tuple[Any, Any]:
        try:
            writer: Any = fastavro.parse_schema(json.loads(text))
        except (*_DAMAGED, AttributeError, SchemaParseException, UnknownType) as error:
            raise EventRejected("schema_mismatch", f"schema {number} is no Avro: {error!r}") from None
        # Avro resolves records of one name only, and what writers call theirs does not matter here.
        name = writer.get("name", "") if isinstance(writer, dict) else ""
        reader = {**avro_schema(self.workspace), **({"name": name} if name else {})}
        return writer, fastavro.parse_schema(reader)
