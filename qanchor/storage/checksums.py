"""A checksum of vectors that does not depend on the order or the number of files they lie in.

Each row is hashed to 64 bits; a set of rows is the sum of its hashes. Two stores that hold the same rows give
the same sum, and row by row the hashes say which differ. It guards against accidents, not against forgery.
"""

from typing import Final

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

Hashes = NDArray[np.uint64]
_BLOCK: Final = 16_384
_MIX: Final = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))


def row_hashes(
    users: pa.Array | NDArray[np.object_], moments: NDArray[np.int64], vectors: NDArray[np.float32]
) -> Hashes:
    """A hash of each row's user, moment and vector, bit by bit.

    Args:
        users: [rows], user ids.
        moments: int64 [rows], microseconds UTC.
        vectors: float32 [rows, width].

    Returns:
        uint64 [rows].
    """
    names = np.asarray(users, dtype=object) if not isinstance(users, np.ndarray) else users
    hashed = pd.util.hash_array(names, categorize=False) if len(names) else np.empty(0, np.uint64)
    keys = np.random.Generator(np.random.PCG64(20_260_214)).integers(
        1, 2**63, vectors.shape[1] + 1, dtype=np.uint64
    ) * np.uint64(2) + np.uint64(1)
    result = _mixed(hashed + moments.astype(np.uint64) * keys[-1])
    bits = np.ascontiguousarray(vectors, np.float32).view(np.uint32)
    for start in range(0, len(bits), _BLOCK):
        block = bits[start : start + _BLOCK].astype(np.uint64)
        result[start : start + _BLOCK] += (block * keys[:-1]).sum(axis=1, dtype=np.uint64)
    return _mixed(result)


def _mixed(values: Hashes) -> Hashes:
    """The finaliser of splitmix64: every bit of the input moves half of the output's."""
    values = (values ^ (values >> np.uint64(30))) * _MIX[0]
    values = (values ^ (values >> np.uint64(27))) * _MIX[1]
    return values ^ (values >> np.uint64(31))


def total(hashes: Hashes) -> int:
    """The sum of a set of rows' hashes; totals of disjoint sets add up with `combined`."""
    return int(hashes.sum(dtype=np.uint64)) if len(hashes) else 0


def combined(totals: list[int]) -> int:
    """The total of several sets together."""
    return sum(totals) % 2**64


def checksum(totals: int, rows: int) -> str:
    """The checksum of a set as text: its total and its number of rows."""
    return f"{totals:016x}-{rows:x}"
