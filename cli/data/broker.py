"""`qanchor-cli broker`: the embedded Kafka-protocol broker."""

from pathlib import Path
from typing import Annotated

import typer

from qanchor.site import Site


def run(
    port: Annotated[int, typer.Option(help="Port on 127.0.0.1; 0: any free port.")] = 9092,
    data_dir: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder of its log; default: broker/ in QANCHOR_HOME.")
    ] = None,
    ready_file: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="File that receives HOST:PORT once the broker listens."),
    ] = None,
) -> None:
    """Run a single-node broker of the Kafka protocol until interrupted.

    For demos and tests, NOT for production: no authentication, no replication, loopback only.
    Production is Apache Kafka, by configuration alone: set QANCHOR_KAFKA__BROKERS.

    Example: qanchor-cli broker --port 9092
    """
    import asyncio

    from consumers.embedded_broker.server import EmbeddedBroker, run_broker
    from qanchor.files import write_atomically

    site = Site.open()
    folder = data_dir or site.home.broker
    broker = EmbeddedBroker(folder, port, site.settings.kafka.partitions)

    def started() -> None:
        if ready_file is not None:
            write_atomically(ready_file, broker.address)
        print(f"broker listening on {broker.address}, log in {folder} (development only)", flush=True)

    asyncio.run(run_broker(broker, started))
    print("broker stopped", flush=True)
