"""Ending on SIGTERM or SIGINT within two seconds, whatever hangs.

A signal stops the consumer: it writes what it has read, if there is time for that. A store or broker
that does not answer could hold it up for as long as its time-out, so a watchdog ends the process
then. That is as safe as kill -9: the ledger knows what counts, and the next run reads the rest again.
"""

import os
import signal
import sys
import threading
from typing import Final, NoReturn

from qanchor.errors import StoreUnavailable

# The promise is two seconds from the signal to the end; this leaves room for the end itself.
_LONGEST_STOP_SECONDS: Final = 1.8


def stop_on_signals(stop: threading.Event) -> None:
    """Set `stop` at SIGTERM or SIGINT, and end the process if it has not ended by itself soon after.

    Args:
        stop: event that the consumer checks.
    """

    def request_stop(*_: object) -> None:
        if not stop.is_set():
            watchdog = threading.Timer(_LONGEST_STOP_SECONDS, _end)
            watchdog.daemon = True
            watchdog.start()
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, request_stop)


def end_process(code: int) -> NoReturn:
    """End now, with what was printed: taking the interpreter apart would cost another half second.

    Args:
        code: the exit code.
    """
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code)


def _end() -> None:
    error = StoreUnavailable(
        "a store or broker did not answer in time for an orderly end",
        "Nothing is lost: the next run reads again what was not written.",
    )
    sys.stderr.write(f"error: {error}\n")
    end_process(error.exit_code)
