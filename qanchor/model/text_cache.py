"""Vectors of event texts on disk: a pre-trained encoder encodes each distinct text once, for all processes.

One SQLite file for each encoder version, since vectors of two encoders must never meet. Every row has a
checksum; a damaged row counts as absent, and a damaged file is replaced. The cache only saves time: where it
cannot be read or written, texts are encoded as if there were none.
"""

import hashlib
import logging
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

log = logging.getLogger(__name__)

_TABLE = """
    CREATE TABLE IF NOT EXISTS vectors
    (id INTEGER PRIMARY KEY AUTOINCREMENT, key BLOB NOT NULL UNIQUE, vector BLOB NOT NULL)
"""
_CHECK_BYTES = 8
_KEYS_PER_QUERY = 500
_BUSY_SECONDS = 30.0
# Per row besides the vector: key, checksum, index entry, and the waste of a half-full page.
_ROW_OVERHEAD_BYTES = 96
_KEPT_SHARE = 0.75

Floats = NDArray[np.float32]


class TextVectorCache:
    """Keeps the vectors of one encoder version; several processes may share the file.

    Args:
        folder: created with the first vector.
        encoder: version of the encoder; each has its file.
        width: width of a vector.
        most_bytes: approximate limit of the file; beyond it the oldest quarter is deleted.
    """

    def __init__(self, folder: Path, encoder: str, width: int, most_bytes: int) -> None:
        self.path = folder / f"{encoder[:32]}.db"
        self._width = width
        self._most_rows = max(1, most_bytes // (4 * width + _ROW_OVERHEAD_BYTES))

    def vectors(self, texts: Sequence[bytes], encode: Callable[[NDArray[np.int64]], Floats]) -> Floats:
        """One vector for each text, float32 [texts, width].

        Args:
            texts: input of the encoder, such as token ids as bytes; each distinct one is encoded once.
            encode: called with the indices of unknown texts, int64; returns [indices, width].
        """
        keys = [hashlib.blake2b(text, digest_size=16).digest() for text in texts]
        known = self._read(sorted(set(keys)))
        first: dict[bytes, int] = {}
        for index, key in enumerate(keys):
            first.setdefault(key, index)
        missing = [key for key in first if key not in known]
        if missing:
            fresh = encode(np.array([first[key] for key in missing], dtype=np.int64))
            encoded = dict(zip(missing, np.ascontiguousarray(fresh, dtype=np.float32), strict=True))
            self._write(encoded)
            known |= encoded
        return np.stack([known[key] for key in keys]) if keys else np.empty((0, self._width), np.float32)

    def _read(self, keys: Sequence[bytes]) -> dict[bytes, Floats]:
        vectors: dict[bytes, Floats] = {}

        def read(connection: sqlite3.Connection) -> None:
            for start in range(0, len(keys), _KEYS_PER_QUERY):
                some = keys[start : start + _KEYS_PER_QUERY]
                query = f"SELECT key, vector FROM vectors WHERE key IN ({','.join('?' * len(some))})"
                for key, stored in connection.execute(query, some):
                    vector = self._unpacked(key, stored)
                    if vector is not None:
                        vectors[key] = vector

        if self.path.exists():
            self._try(read)
        return vectors

    def _write(self, vectors: dict[bytes, Floats]) -> None:
        rows = [(key, _packed(key, vector)) for key, vector in vectors.items()]

        def write(connection: sqlite3.Connection) -> None:
            # A damaged row has the same key and is replaced.
            connection.executemany("INSERT OR REPLACE INTO vectors (key, vector) VALUES (?, ?)", rows)
            newest, oldest = connection.execute("SELECT max(id), min(id) FROM vectors").fetchone()
            if newest - oldest + 1 > self._most_rows:
                forget = newest - int(_KEPT_SHARE * self._most_rows)
                connection.execute("DELETE FROM vectors WHERE id <= ?", (forget,))
                log.info("text_cache=trimmed path=%s", self.path)

        self._try(write)

    def _try(self, action: Callable[[sqlite3.Connection], None]) -> None:
        """Run an action in one transaction; a failure is logged and costs only the time to encode."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with closing(sqlite3.connect(self.path, timeout=_BUSY_SECONDS)) as connection, connection:
                connection.execute(_TABLE)
                action(connection)
        except (OSError, sqlite3.OperationalError) as error:
            log.warning("text_cache=unavailable path=%s reason=%s", self.path, error)
        except sqlite3.DatabaseError as error:
            log.warning("text_cache=damaged path=%s reason=%s", self.path, error)
            self.path.unlink(missing_ok=True)

    def _unpacked(self, key: bytes, stored: object) -> Floats | None:
        if not isinstance(stored, bytes) or len(stored) != 4 * self._width + _CHECK_BYTES:
            return None
        content = stored[_CHECK_BYTES:]
        if _check(key, content) != stored[:_CHECK_BYTES]:
            return None
        return np.frombuffer(content, dtype="<f4")


def _packed(key: bytes, vector: Floats) -> bytes:
    content = vector.astype("<f4", copy=False).tobytes()
    return _check(key, content) + content


def _check(key: bytes, content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=_CHECK_BYTES, key=key).digest()
