"""Logging set up once: one event a line, key=value, UTC, to stderr."""

import logging
import time


def configure_logging(level: str = "WARNING") -> None:
    """Send log lines of `level` and above to stderr.

    Args:
        level: a level name of the standard library, any case.
    """
    formatter = logging.Formatter(
        "%(asctime)s.%(msecs)03dZ %(levelname)s %(name)s %(message)s", "%Y-%m-%dT%H:%M:%S"
    )
    formatter.converter = time.gmtime
    handler = logging.StreamHandler()
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
