"""The decoder for the format that the topic's messages are in."""

from qanchor.errors import NotReady, WorkspaceInvalid
from qanchor.events.schema import EventDecoder
from qanchor.settings import Settings
from qanchor.workspace import Workspace


def open_decoder(workspace: Workspace, settings: Settings) -> EventDecoder:
    """The decoder of the topic's messages.

    Args:
        workspace: the modalities and their fields.
        settings: format, schema registry and which times are absurd.

    Raises:
        WorkspaceInvalid: Avro without a schema registry; name one.
        NotReady: the extra for Avro is not installed.
    """
    if settings.kafka.format == "json":
        return EventDecoder(workspace, settings.events)
    if not settings.kafka.schema_registry.startswith(("http://", "https://")):
        raise WorkspaceInvalid(
            "Avro messages need a schema registry", "Set QANCHOR_KAFKA__SCHEMA_REGISTRY to its http(s) URL."
        )
    try:
        from consumers.avro import AvroDecoder  # noqa: PLC0415  # an extra
        from consumers.schema_registry import SchemaRegistry  # noqa: PLC0415  # as above
    except ImportError as error:
        raise NotReady(
            f"reading Avro needs the package {error.name}", "Install it: pip install 'qanchor[avro]'."
        ) from error
    return AvroDecoder(workspace, settings.events, SchemaRegistry(settings.kafka.schema_registry))
