"""One lock file per writer, held while its process lives, freed by the kernel when it dies."""

import fcntl
import os
import time
import weakref
from pathlib import Path
from typing import Any, Final

from qanchor.errors import NotReady

_PATIENCE_SECONDS: Final = 1.0  # a recovery elsewhere holds a lock for an instant to see whether it is free


class WriterLock:
    """The lock of one writer, `OWNER.lock` in the staging folder.

    Args:
        path: the lock file; its folder is created when the lock is taken.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._held: weakref.finalize[..., Any] | None = None

    @property
    def is_held(self) -> bool:
        """Whether this object holds the lock."""
        return self._held is not None and self._held.alive

    def take(self) -> None:
        """Take the lock; taking it again changes nothing.

        Raises:
            NotReady: another process writes under this name.
        """
        if self.is_held:
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while (handle := _try_lock(self._path)) is None:
            if time.monotonic() > deadline:
                raise NotReady(
                    f"another process writes the event log as {self._path.stem!r}",
                    "Stop it, or give this one another name.",
                )
            time.sleep(0.02)
        self._held = weakref.finalize(self, os.close, handle)  # a log that is forgotten lets go, too

    def release(self) -> None:
        """Give the lock up, if it is held."""
        if self._held is not None and self._held.alive:
            self._path.unlink(missing_ok=True)
            self._held()
        self._held = None


def remove_if_free(path: Path) -> bool:
    """Remove a lock file that no living process holds.

    Returns:
        Whether its writer is gone; a missing lock has none.
    """
    try:
        handle = _try_lock(path, create=False)
    except FileNotFoundError:
        return True
    if handle is None:
        return False
    path.unlink(missing_ok=True)
    os.close(handle)
    return True


def _try_lock(path: Path, create: bool = True) -> int | None:
    handle = os.open(path, os.O_WRONLY | os.O_CLOEXEC | (os.O_CREAT if create else 0), 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Its holder may have removed the file between the opening and the locking: that lock guards nothing.
        if os.fstat(handle).st_ino == path.stat().st_ino:
            return handle
    except (BlockingIOError, FileNotFoundError):
        pass
    os.close(handle)
    return None
