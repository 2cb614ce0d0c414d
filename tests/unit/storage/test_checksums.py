"""A checksum sees every change of a row and no change of order or division."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qanchor.storage.checksums import checksum, combined, row_hashes, total

_RANDOM = np.random.default_rng(3)
_USERS = np.array([f"u{number}" for number in range(50)], dtype=object)
_MOMENTS = _RANDOM.integers(0, 10**15, 50)
_VECTORS = _RANDOM.normal(size=(50, 128)).astype(np.float32)


@given(st.permutations(range(50)), st.integers(1, 49))
def test_order_and_division_do_not_matter(order: list[int], cut: int) -> None:
    users, moments, vectors = _USERS[order], _MOMENTS[order], _VECTORS[order]
    parts = [
        total(row_hashes(users[part], moments[part], vectors[part]))
        for part in (slice(cut), slice(cut, None))
    ]
    assert combined(parts) == total(row_hashes(_USERS, _MOMENTS, _VECTORS))


@given(st.integers(0, 49), st.integers(0, 127), st.integers(0, 31))
def test_every_bit_of_a_vector_counts(row: int, column: int, bit: int) -> None:
    changed = _VECTORS.copy()
    changed.view(np.uint32)[row, column] ^= np.uint32(1 << bit)
    before, after = (row_hashes(_USERS, _MOMENTS, vectors) for vectors in (_VECTORS, changed))
    assert np.flatnonzero(before != after).tolist() == [row]


def test_users_and_moments_count() -> None:
    hashes = row_hashes(_USERS, _MOMENTS, _VECTORS)
    swapped = _VECTORS[[1, 0, *range(2, 50)]]
    assert total(row_hashes(_USERS, _MOMENTS, swapped)) != total(hashes)
    assert (row_hashes(_USERS, _MOMENTS + 1, _VECTORS) != hashes).all()
    assert len(set(hashes.tolist())) == 50


def test_arrow_and_numpy_users_give_the_same() -> None:
    np.testing.assert_array_equal(
        row_hashes(pa.array(_USERS, pa.string()), _MOMENTS, _VECTORS), row_hashes(_USERS, _MOMENTS, _VECTORS)
    )


def test_it_is_the_same_in_every_process() -> None:
    row = row_hashes(np.array(["ann"], object), np.array([1]), np.ones((1, 2), np.float32))
    assert checksum(total(row), 1) == _KNOWN


def test_nothing_has_a_checksum_too() -> None:
    empty = row_hashes(np.empty(0, object), np.empty(0, np.int64), np.empty((0, 4), np.float32))
    assert checksum(total(empty), 0) == "0000000000000000-0"


_KNOWN = "3670f65f9217e264-1"


@pytest.mark.parametrize("rows", [0, 16_384, 16_385])
def test_blocks_do_not_show(rows: int) -> None:
    users = np.array([f"u{n}" for n in range(rows)], object)
    vectors = np.ones((rows, 3), np.float32)
    hashes = row_hashes(users, np.zeros(rows, np.int64), vectors)
    assert len(set(hashes.tolist())) == rows
