"""The index finds what a full scan finds, and nothing damaged is ever searched."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from qanchor.errors import DiskFull, FingerprintMismatch, IndexInvalid
from qanchor.storage.vectors import IndexMetadata, VectorIndex, build_index, load_index

ORIGIN = IndexMetadata("space-1", 7, "2026-01-01T00:00:00+00:00")


def _unit(rows: int, width: int = 16, seed: int = 0) -> NDArray[np.float32]:
    values = np.random.default_rng(seed).normal(size=(rows, width)).astype(np.float32)
    unit: NDArray[np.float32] = values / np.linalg.norm(values, axis=1, keepdims=True)
    return unit


def _ids(rows: int) -> pa.Array:
    return pa.array([f"u{number:06d}" for number in range(rows)])


def _index(rows: int = 50, exact_below: int = 50_000) -> tuple[VectorIndex, NDArray[np.float32]]:
    vectors = _unit(rows)
    return build_index(_ids(rows), vectors, ORIGIN, exact_below), vectors


@settings(max_examples=25, deadline=None)
@given(rows=st.integers(1, 60), k=st.integers(1, 70), seed=st.integers(0, 99))
def test_small_index_equals_a_full_scan(rows: int, k: int, seed: int) -> None:
    vectors, query = _unit(rows, seed=seed), _unit(1, seed=seed + 1000)
    scores, found = build_index(_ids(rows), vectors, ORIGIN).search(query, k)
    expected = np.sort(vectors @ query[0])[::-1][:k]
    there = min(k, rows)
    assert found.shape == scores.shape == (1, k)
    np.testing.assert_allclose(scores[0, :there], expected, atol=1e-6)
    np.testing.assert_allclose(vectors[found[0, :there]] @ query[0], expected, atol=1e-6)
    assert (found[0, there:] == -1).all()
    assert np.isneginf(scores[0, there:]).all()


def test_rows_follow_the_ids_whatever_order_they_came_in() -> None:
    vectors = _unit(30)
    shuffled = np.random.default_rng(1).permutation(30)
    index = build_index(_ids(30).take(pa.array(shuffled)), vectors[shuffled], ORIGIN)
    np.testing.assert_array_equal(index.rows_of(["u000003", "nobody", "u000000"]), [3, -1, 0])
    np.testing.assert_array_equal(index.vectors(np.array([3, 0])), vectors[[3, 0]])


def test_excluded_rows_are_never_found() -> None:
    index, vectors = _index(20)
    scores, rows = index.search(vectors[:1], 20, exclude=np.arange(5))
    assert set(rows[0, :15]) == set(range(5, 20))
    assert (rows[0, 15:] == -1).all()
    assert np.isneginf(scores[0, 15:]).all()


def test_a_graph_has_its_recall_measured_and_finds_nearly_everything() -> None:
    index, vectors = _index(3_000, exact_below=1_000)
    assert index.metadata.kind == "hnsw32"
    assert index.metadata.recall >= 0.95
    queries = _unit(50, seed=5)
    found = index.search(queries, 5)[1]
    true = np.argsort(-(queries @ vectors.T), axis=1)[:, :5]
    share = np.mean([len(set(a) & set(b)) / 5 for a, b in zip(found, true, strict=True)])
    assert share >= 0.9


def test_a_graph_asked_for_many_answers_exactly() -> None:
    index, vectors = _index(3_000, exact_below=1_000)
    query = _unit(1, seed=5)
    np.testing.assert_array_equal(index.search(query, 400)[1][0], np.argsort(-(vectors @ query[0]))[:400])


@pytest.mark.parametrize("exact_below", [50_000, 10], ids=["flat", "graph"])
def test_a_saved_index_answers_as_before(tmp_path: Path, exact_below: int) -> None:
    index, vectors = _index(60, exact_below)
    index.save(tmp_path / "v1")
    loaded = load_index(tmp_path / "v1", "space-1")
    np.testing.assert_array_equal(loaded.search(vectors[:3], 5)[1], index.search(vectors[:3], 5)[1])
    np.testing.assert_array_equal(loaded.vectors(np.array([4])), vectors[[4]])
    assert loaded.users.equals(index.users)
    assert (loaded.metadata.rows, loaded.metadata.width, loaded.metadata.manifest_id) == (60, 16, 7)


def test_an_index_of_another_space_is_refused(tmp_path: Path) -> None:
    _index()[0].save(tmp_path / "v1")
    with pytest.raises(FingerprintMismatch, match="space-1, not space-2"):
        load_index(tmp_path / "v1", "space-2")


@pytest.mark.parametrize("name", ["index.faiss", "users.parquet", "metadata.json"])
def test_a_file_that_was_cut_off_is_refused(tmp_path: Path, name: str) -> None:
    _index()[0].save(tmp_path / "v1")
    path = tmp_path / "v1" / name
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(IndexInvalid, match="index build"):
        load_index(tmp_path / "v1")


@pytest.mark.parametrize("name", ["index.faiss", "users.parquet", "metadata.json"])
def test_a_missing_file_is_refused(tmp_path: Path, name: str) -> None:
    _index()[0].save(tmp_path / "v1")
    (tmp_path / "v1" / name).unlink()
    with pytest.raises(IndexInvalid):
        load_index(tmp_path / "v1")


def test_files_of_two_indexes_are_refused(tmp_path: Path) -> None:
    _index(50)[0].save(tmp_path / "v1")
    _index(40)[0].save(tmp_path / "v2")
    users = (tmp_path / "v2" / "users.parquet").read_bytes()
    (tmp_path / "v1" / "users.parquet").write_bytes(users)
    path = tmp_path / "v1" / "metadata.json"
    metadata = json.loads(path.read_text())
    metadata["sizes"]["users.parquet"] = len(users)
    path.write_text(json.dumps(metadata))
    with pytest.raises(IndexInvalid, match="do not belong together"):
        load_index(tmp_path / "v1")


def test_another_format_is_refused(tmp_path: Path) -> None:
    _index()[0].save(tmp_path / "v1")
    path = tmp_path / "v1" / "metadata.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": 99}))
    with pytest.raises(IndexInvalid, match="format 99"):
        load_index(tmp_path / "v1")


def test_a_save_that_breaks_off_leaves_no_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = _index()[0]
    monkeypatch.setattr("qanchor.storage.vectors.pq.write_table", _interrupt)
    with pytest.raises(KeyboardInterrupt):
        index.save(tmp_path / "v1")
    assert not (tmp_path / "v1").exists()
    monkeypatch.undo()
    index.save(tmp_path / "v1")
    assert load_index(tmp_path / "v1").metadata.rows == 50


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("users", "vectors", "said"),
    [
        ([], _unit(0), "no vectors"),
        (["a", "a"], _unit(2), "more than one"),
        (["a", "b"], np.array([[1, 0], [np.nan, 1]], np.float32), "'b' has length nan"),
        (["a"], np.array([[3, 4]], np.float32), "length 5, not 1"),
    ],
    ids=["none", "twice", "nan", "long"],
)
def test_vectors_that_do_not_hold_are_refused(
    users: list[str], vectors: NDArray[np.float32], said: str
) -> None:
    with pytest.raises(IndexInvalid, match=said):
        build_index(pa.array(users, pa.string()), vectors, ORIGIN)


def test_a_full_disk_is_named_and_leaves_no_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("Error in faiss: write error: No space left on device")

    monkeypatch.setattr("faiss.write_index", fail)
    with pytest.raises(DiskFull, match="Free some space"):
        _index()[0].save(tmp_path / "v1")
    assert not (tmp_path / "v1").exists()
