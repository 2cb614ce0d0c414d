"""`qanchor-cli events schema`: what an event on the topic has to look like."""

from enum import StrEnum
from typing import Annotated

import typer

from cli.output import print_json
from qanchor.site import Site


class SchemaFormat(StrEnum):
    """Schema languages."""

    JSON = "json"
    AVRO = "avro"


def schema(
    form: Annotated[SchemaFormat, typer.Option("--format", help="Schema language.")] = SchemaFormat.JSON,
) -> None:
    """Print the JSON Schema or Avro schema of an event on the topic.

    It follows from modalities.yaml.

    Example: qanchor-cli events schema > event.schema.json
    """
    from qanchor.events.published import avro_schema, json_schema
    from qanchor.events.schema import EventDecoder

    site = Site.open()
    if form is SchemaFormat.AVRO:
        print_json(avro_schema(site.workspace))
    else:
        print_json(json_schema(EventDecoder(site.workspace, site.settings.events)))
