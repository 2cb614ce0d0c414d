"""Leases: the names of workers, and the clock that leases run by."""

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
    """A name that tells two workers of one process apart."""
    return secrets.token_hex(4)


def new_owner(token: str = "") -> str:
    """A worker's name: host and process, so that its neighbours can see that it is gone, and a token.

    Args:
        token: chosen where the worker has to be recognised later; default: a new one.
    """
    return f"{socket.gethostname()[:64]}/{os.getpid()}/{token or new_token()}"


def clock_ms(engine: Engine) -> ColumnElement[int]:
    """The database's clock as an SQL expression, milliseconds since the epoch."""
    return literal_column(_CLOCKS[engine.dialect.name], BigInteger)


def is_here(owner: str) -> bool:
    """Whether a worker is, or was, a process of this host."""
    return owner.split("/", maxsplit=1)[0] == socket.gethostname()[:64]


def is_gone(owner: str | None) -> bool:
    """Whether a worker was a process of this host that has ended."""
    if not owner or not is_here(owner):
        return False  # another host's: only its lease tells
    try:
        os.kill(int(owner.split("/")[1]), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False
