"""The event as other teams' tools read it: a JSON Schema and an Avro schema, derived from modalities.yaml."""

from functools import reduce
from operator import or_
from typing import Any, Final

import msgspec

from qanchor import names
from qanchor.events.schema import EventDecoder
from qanchor.workspace import Workspace

_DRAFT: Final = "https://json-schema.org/draft/2020-12/schema"
_ABOUT: Final = (
    "A user event. Unknown fields are ignored, so a producer may add some at any time."
    " Events that are too old or too far ahead of the clock are refused, too, which a schema cannot say."
)
AVRO_NAME: Final = "UserEvent"


def json_schema(decoder: EventDecoder) -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of an event on the wire.

    Args:
        decoder: whose rules it states.
    """
    schema = msgspec.json.schema(reduce(or_, decoder.types.values()))
    if "anyOf" not in schema:  # a lone modality: the same form as for several
        schema = {"anyOf": [{"$ref": schema["$ref"]}], "$defs": schema["$defs"]}
    for name, spec in decoder.workspace.modalities.items():
        schema["$defs"][decoder.types[name].__name__]["description"] = spec.description or name
    return {"$schema": _DRAFT, "title": AVRO_NAME, "description": _ABOUT, **schema}


def avro_schema(workspace: Workspace) -> dict[str, Any]:
    """The Avro schema that messages are read with: one flat record, what a modality lacks is null.

    Args:
        workspace: the modalities and their fields.
    """
    instant = {"type": "long", "logicalType": "timestamp-micros"}
    fields: list[dict[str, Any]] = [
        {"name": names.USER_ID, "type": "string"},
        {"name": names.EVENT_TIME, "type": instant},
        {"name": names.MODALITY, "type": "string"},
        {"name": names.EVENT_ID, "type": ["null", "string"], "default": None},
    ]
    for name, kind in workspace.event_columns.items():
        value = "double" if kind == "number" else "string"
        fields.append({"name": name, "type": ["null", value], "default": None})
    return {"type": "record", "name": AVRO_NAME, "doc": _ABOUT, "fields": fields}
