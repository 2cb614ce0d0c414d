"""Ending between two steps when somebody asks for it."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def stop_between_steps() -> Iterator[threading.Event]:
    """An event that SIGINT or SIGTERM sets; a second signal ends the process as it would without this.

    Only the main thread may listen to signals: elsewhere nothing sets the event.
    """
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.getsignal(number) for number in numbers}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def ask(*_: object) -> None:
        stop.set()
        restore()

    for number in numbers:
        signal.signal(number, ask)
    try:
        yield stop
    finally:
        restore()
