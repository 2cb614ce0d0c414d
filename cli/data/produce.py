"""`qanchor-cli produce`: a file of events to Kafka."""

from pathlib import Path
from typing import Annotated

import typer

from cli.output import JsonOption, print_json
from cli.stages import progress
from qanchor.site import Site


def run(
    file: Annotated[Path, typer.Argument(help="Parquet, CSV or JSON lines of events.")],
    rate: Annotated[
        float | None, typer.Option(min=0.1, metavar="EVENTS", help="Maximum number of events per second.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Send a file of events to the Kafka topic, keyed by user_id.

    Rows get the event_id that `events load` gives them, so loading and streaming one file adds its
    events once. Invalid rows are sent too: the consumer rejects them.

    Example: qanchor-cli produce payments.parquet --rate 5000
    """
    from consumers.producer import produce_file
    from qanchor.events.schema import EventDecoder

    site = Site.open()
    kafka = site.settings.kafka
    decoder = EventDecoder(site.workspace, site.settings.events)
    with progress() as bar:
        summary = produce_file(file, decoder, kafka, bar, rate)
    if as_json:
        print_json(
            {
                "topic": kafka.topic,
                "sent": summary.sent,
                "invalid": summary.invalid,
                "seconds": round(summary.seconds, 3),
                "events_per_second": round(summary.rate),
            }
        )
        return
    print(
        f"sent {summary.sent:,} events to {kafka.topic} at {kafka.brokers}"
        f" in {summary.seconds:.1f} s ({summary.rate:,.0f} events/s)"
    )
    if summary.invalid:
        print(f"{summary.invalid:,} of them are invalid; the consumer will send those to the dead letters")
