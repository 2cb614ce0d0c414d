"""The loop of `--watch`, and its options."""

import signal
import threading
import time
from collections.abc import Callable
from typing import Annotated

import typer

WatchOption = Annotated[
    float | None, typer.Option(min=1, metavar="SECONDS", help="Repeat every N seconds until SIGTERM.")
]
MetricsPortOption = Annotated[
    int | None,
    typer.Option(metavar="PORT", help="With --watch: serve Prometheus metrics on this port of 127.0.0.1."),
]


def run_until_signal(step: Callable[[], None], seconds: float) -> None:
    """Repeat a step every `seconds` until SIGTERM or SIGINT; a step under way is finished first.

    A step that cannot work for now (StateError, StoreUnavailable) is reported on stderr and tried again.

    Args:
        step: what is repeated.
        seconds: from the start of one step to the start of the next.
    """
    from qanchor.errors import StateError, StoreUnavailable

    stop = threading.Event()
    handlers = {
        number: signal.signal(number, lambda *_: stop.set()) for number in (signal.SIGTERM, signal.SIGINT)
    }
    try:
        while not stop.is_set():
            began = time.monotonic()
            try:
                step()
            except (StateError, StoreUnavailable) as error:
                typer.echo(f"warning: {error}", err=True)
            stop.wait(max(0.0, seconds - (time.monotonic() - began)))
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
