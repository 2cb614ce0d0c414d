"""Who holds a lease, and by which clock it runs."""

import os
import secrets
import socket
from typing import Final

from sqlalchemy import BigInteger, ColumnElement, Engine, literal_column

_CLOCKS: Final = {
    "sqlite": "CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)",
    "postgresql": "CAST(extract(epoch FROM clock_timestamp()) * 1000 AS BIGINT)",
}


def new_token() -> str:
    """What tells two workers of one process apart."""
    return secrets.token_hex(4)


def new_owner(token: str = "") -> str:
    """A worker's name: host and process, so that its neighbours can see that it is gone, and a token.

    Args:
        token: chosen by whoever starts the worker and wants to know it again; default: a new one.
    """
    return f"{socket.gethostname()[:64]}/{os.getpid()}/{token or new_token()}"


def clock_ms(engine: Engine) -> ColumnElement[int]:
    """The database's clock as an SQL expression, milliseconds since the epoch."""
    return literal_column(_CLOCKS[engine.dialect.name], BigInteger)


def is_gone(owner: str | None) -> bool:
    """Whether a worker was a process of this host that has ended."""
    if not owner:
        return False
    host, pid, _ = owner.split("/")
    if host != socket.gethostname()[:64]:
        return False  # another host's: only its lease tells
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False
