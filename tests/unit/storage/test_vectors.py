"""The index finds what a full scan finds, and nothing damaged is ever searched."""

import json
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from qanchor.errors import DiskFull, FingerprintMismatch, IndexInvalid
from qanchor.storage.vectors import (
    IndexMetadata,
    IndexPlan,
    VectorIndex,
    build_index,
    load_index,
    save_index,
    update_index,
)

FastKind = Literal["codes", "ivf", "hnsw"]

ORIGIN = IndexMetadata("space-1", 7, "2026-01-01T00:00:00+00:00")


def _unit(rows: int, width: int = 16, seed: int = 0) -> NDArray[np.float32]:
    values = np.random.default_rng(seed).normal(size=(rows, width)).astype(np.float32)
    unit: NDArray[np.float32] = values / np.linalg.norm(values, axis=1, keepdims=True)
    return unit


def _ids(rows: int) -> pa.Array:
    return pa.array([f"u{number:06d}" for number in range(rows)])


def _index(
    rows: int = 50, kind: Literal["auto", "flat", "codes", "ivf", "hnsw"] = "auto"
) -> tuple[VectorIndex, NDArray[np.float32]]:
    vectors = _unit(rows)
    return build_index(_ids(rows), vectors, ORIGIN, IndexPlan(kind, queries=60)), vectors


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


def _share_found(found: NDArray[np.int64], true: NDArray[np.int64]) -> float:
    return float(np.mean([np.isin(a, b).mean() for a, b in zip(true, found, strict=True)]))


@pytest.mark.parametrize("kind", ["codes", "ivf", "hnsw"])
def test_a_fast_index_finds_what_it_promises_and_says_how_that_was_measured(kind: FastKind) -> None:
    index, vectors = _index(6_000, kind)
    facts = index.metadata.facts()
    assert (facts["kind"], facts["users"], facts["recall_queries"]) == (kind, 6_000, 60)
    assert facts["recall"] >= 0.98
    assert facts["build_seconds"] > 0 < facts["memory_bytes"]
    # Asked for so few rows at a time that a scan would be as quick, so asked of the segment itself.
    queries = _unit(60, seed=5)
    found = index.segments[0].approximate(queries, 100)[1]
    true = np.argsort(-(queries @ vectors.T), axis=1)[:, :100]
    assert _share_found(found, true) == pytest.approx(facts["recall"], abs=0.02)


@pytest.mark.parametrize("kind", ["codes", "ivf", "hnsw"])
def test_a_fast_index_gives_the_true_scores_of_what_it_finds(kind: FastKind) -> None:
    index, vectors = _index(2_000, kind)
    scores, rows = index.segments[0].approximate(vectors[:3], 10)
    np.testing.assert_allclose(scores, np.take_along_axis(vectors[:3] @ vectors.T, rows, 1), atol=1e-6)
    assert (np.diff(scores, axis=1) <= 0).all()


@pytest.mark.parametrize("kind", ["codes", "ivf", "hnsw"])
def test_a_fast_index_asked_for_most_users_answers_exactly(kind: FastKind) -> None:
    index, vectors = _index(3_000, kind)
    query = _unit(1, seed=5)
    np.testing.assert_array_equal(index.search(query, 2_500)[1][0], np.argsort(-(vectors @ query[0]))[:2_500])


def test_vectors_without_clusters_are_not_divided_into_cells_and_clustered_ones_are() -> None:
    random = np.random.default_rng(0)
    centres = _unit(12, seed=3)[random.integers(0, 12, 20_000)]
    clustered = centres + 0.02 * random.normal(size=centres.shape)
    clustered = (clustered / np.linalg.norm(clustered, axis=1, keepdims=True)).astype(np.float32)
    plan = IndexPlan(exact_below=1_000, queries=40)
    assert build_index(_ids(20_000), clustered, ORIGIN, plan).metadata.kind == "ivf"
    assert build_index(_ids(20_000), _unit(20_000), ORIGIN, plan).metadata.kind == "codes"


def test_less_memory_makes_shorter_codes_until_none_are_short_enough() -> None:
    vectors, ids = _unit(2_000), _ids(2_000)
    shares = []
    for each in (8, 4, 2):
        plan = IndexPlan("codes", memory_bytes=2_000 * each // 2, queries=20)
        shares.append(build_index(ids, vectors, ORIGIN, plan).metadata.parameters["dims_per_code"])
    assert shares == [2, 4, 8]
    with pytest.raises(IndexInvalid, match="QANCHOR_INDEX__MEMORY_GIB"):
        build_index(ids, vectors, ORIGIN, IndexPlan("codes", memory_bytes=1_000, queries=20))


@pytest.mark.parametrize("kind", ["flat", "codes", "ivf", "hnsw"])
@pytest.mark.parametrize("share", [0.0, 0.005, 0.05, 0.5, 0.95])
def test_a_filter_costs_no_recall_however_much_it_keeps(
    kind: Literal["flat", "codes", "ivf", "hnsw"], share: float
) -> None:
    index, vectors = _index(6_000, kind)
    allowed = np.random.default_rng(2).random(6_000) < share
    # One query at a time: many together are scanned.
    for query in _unit(8, seed=5):
        true = [row for row in np.argsort(-(vectors @ query)) if allowed[row]][:50]
        found = index.search(query[None], 50, allowed=allowed)[1]
        assert found.shape == (1, 50)
        assert allowed[found[found >= 0]].all()
        assert len(set(found[0]) & set(true)) >= 0.94 * len(true)
        assert int((found >= 0).sum()) == len(true)
        by_position = index.search(query[None], 50, allowed=np.flatnonzero(allowed))
        np.testing.assert_array_equal(by_position[1], found)


@pytest.mark.parametrize("kind", ["codes", "ivf", "hnsw"])
def test_a_filter_that_keeps_only_the_farthest_is_answered_exactly(kind: FastKind) -> None:
    index, vectors = _index(6_000, kind)
    query = _unit(1, seed=5)
    order = np.argsort(-(vectors @ query[0]))
    found = index.search(query, 20, allowed=order[3_000:])[1][0]
    np.testing.assert_array_equal(found, order[3_000:3_020])


def test_a_search_in_shards_answers_as_one_index_does() -> None:
    vectors, queries = _unit(3_000), _unit(7, seed=5)
    one = build_index(_ids(3_000), vectors, ORIGIN)
    shards = build_index(_ids(3_000), vectors, ORIGIN, IndexPlan(shard_rows=700))
    allowed = np.random.default_rng(2).random(3_000) < 0.3
    assert [len(segment) for segment in shards.segments] == [600] * 5
    for arguments in ({}, {"allowed": allowed}, {"exclude": np.arange(50)}):
        expected, got = one.search(queries, 1_000, **arguments), shards.search(queries, 1_000, **arguments)
        np.testing.assert_array_equal(got[1], expected[1])
        np.testing.assert_allclose(got[0], expected[0], atol=1e-6)
    rows = np.array([2_999, 0, 600, 599])
    np.testing.assert_array_equal(shards.vectors(rows), vectors[rows])
    assert shards.user_ids(rows).equals(one.user_ids(rows))
    np.testing.assert_array_equal(shards.rows_of(["u002999", "x", "u000600"]), [2_999, -1, 600])


@settings(max_examples=50, deadline=None)
@given(ids=st.sets(st.text(max_size=4), min_size=1, max_size=40), asked=st.lists(st.text(max_size=4)))
def test_every_user_is_found_by_id_and_nobody_else(ids: set[str], asked: list[str]) -> None:
    vectors = _unit(len(ids))
    index = build_index(pa.array(list(ids)), vectors, ORIGIN)
    wanted = [*asked, *ids]
    for some in (wanted, wanted[-1:]):
        rows = index.rows_of(some)
        for user, row in zip(some, rows, strict=True):
            assert (row >= 0) == (user in ids)
            assert row < 0 or index.users[int(row)].as_py() == user


def test_few_users_are_found_in_a_long_list_without_reading_all_of_it() -> None:
    index, _ = _index(5_000)
    rows = index.rows_of(["u000000", "u004999", "u00", "v", "", None, "u002500", "u002500"])
    np.testing.assert_array_equal(rows, [0, 4_999, -1, -1, -1, -1, 2_500, 2_500])


@pytest.mark.parametrize("kind", ["flat", "codes", "ivf", "hnsw"])
def test_a_saved_index_answers_as_before(
    tmp_path: Path, kind: Literal["flat", "codes", "ivf", "hnsw"]
) -> None:
    index, vectors = _index(2_000, kind)
    save_index(index, tmp_path / "v1")
    loaded = load_index(tmp_path / "v1", "space-1")
    np.testing.assert_array_equal(loaded.search(vectors[:3], 5)[1], index.search(vectors[:3], 5)[1])
    np.testing.assert_array_equal(
        loaded.segments[0].approximate(vectors[:3], 5)[1] if kind != "flat" else [],
        index.segments[0].approximate(vectors[:3], 5)[1] if kind != "flat" else [],
    )
    np.testing.assert_array_equal(loaded.vectors(np.array([4])), vectors[[4]])
    assert loaded.users.equals(index.users)
    assert (loaded.metadata.rows, loaded.dim, loaded.metadata.manifest_id) == (2_000, 16, 7)
    assert loaded.metadata.facts() == {**index.metadata.facts(), "bytes": loaded.metadata.bytes} | {
        "bytes_per_user": round(loaded.metadata.bytes / 2_000, 1)
    }


@pytest.mark.parametrize("kind", ["flat", "codes"])
def test_an_update_answers_as_an_index_built_anew(tmp_path: Path, kind: Literal["flat", "codes"]) -> None:
    index, vectors = _index(2_000, kind)
    save_index(index, tmp_path / "v1")
    before = load_index(tmp_path / "v1")
    # u0..u9 gone, u10..u19 changed, new ones whose ids come before, among and after the others.
    now = vectors.copy()
    now[10:20] = _unit(10, seed=9)
    ids = pa.concat_arrays([_ids(2_000).slice(10), pa.array(["a", "u000015x", "z"])])
    now = np.concatenate([now[10:], _unit(3, seed=10)])
    updated = update_index(before, ids, now, ORIGIN)
    save_index(updated, tmp_path / "v2")
    loaded = load_index(tmp_path / "v2")
    anew = build_index(ids, now, ORIGIN)
    queries = np.concatenate([_unit(4, seed=5), vectors[:12]])
    scores, rows = loaded.search(queries, 2_100)
    expected = anew.search(queries, 2_100)
    np.testing.assert_allclose(scores, expected[0], atol=1e-6)
    there = rows[0] >= 0
    assert loaded.user_ids(rows[0][there]).equals(anew.user_ids(expected[1][0][there]))
    assert (loaded.population, loaded.size, len(loaded.segments)) == (1_993, 2_013, 2)
    assert sorted(loaded.user_ids(loaded.live_rows()).to_pylist()) == sorted(ids.to_pylist())
    np.testing.assert_array_equal(loaded.rows_of(["u000005"]), [-1])
    np.testing.assert_array_equal(loaded.vectors(loaded.rows_of(ids)), now)
    # What did not change was not written again.
    assert (tmp_path / "v1/00000/index.faiss").samefile(tmp_path / "v2/00000/index.faiss")


def test_an_update_of_an_update_keeps_one_segment_of_changes() -> None:
    index, vectors = _index(500)
    for seed in (11, 12):
        now = vectors.copy()
        now[seed] = _unit(1, seed=seed)[0]
        index = update_index(index, _ids(500), now, ORIGIN)
        assert (len(index.segments), index.population) == (2, 500)
        np.testing.assert_array_equal(index.vectors(index.rows_of(_ids(500))), now)
    assert len(update_index(index, _ids(500), vectors, ORIGIN).segments) == 1


def test_an_index_of_another_space_is_refused(tmp_path: Path) -> None:
    save_index(_index()[0], tmp_path / "v1")
    with pytest.raises(FingerprintMismatch, match="space-1, not space-2"):
        load_index(tmp_path / "v1", "space-2")


@pytest.mark.parametrize("name", ["00000/index.faiss", "00000/users.arrow", "removed.npy", "metadata.json"])
def test_a_file_that_was_cut_off_is_refused(tmp_path: Path, name: str) -> None:
    save_index(_index()[0], tmp_path / "v1")
    path = tmp_path / "v1" / name
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(IndexInvalid, match="index build"):
        load_index(tmp_path / "v1")


@pytest.mark.parametrize("name", ["00000/index.faiss", "00000/users.arrow", "removed.npy", "metadata.json"])
def test_a_missing_file_is_refused(tmp_path: Path, name: str) -> None:
    save_index(_index()[0], tmp_path / "v1")
    (tmp_path / "v1" / name).unlink()
    with pytest.raises(IndexInvalid):
        load_index(tmp_path / "v1")


def test_files_of_two_indexes_are_refused(tmp_path: Path) -> None:
    save_index(_index(50)[0], tmp_path / "v1")
    save_index(_index(40)[0], tmp_path / "v2")
    users = (tmp_path / "v2" / "00000/users.arrow").read_bytes()
    (tmp_path / "v1" / "00000/users.arrow").write_bytes(users)
    path = tmp_path / "v1" / "metadata.json"
    metadata = json.loads(path.read_text())
    metadata["sizes"]["00000/users.arrow"] = len(users)
    path.write_text(json.dumps(metadata))
    with pytest.raises(IndexInvalid, match="do not belong together"):
        load_index(tmp_path / "v1")


def test_another_format_is_refused(tmp_path: Path) -> None:
    save_index(_index()[0], tmp_path / "v1")
    path = tmp_path / "v1" / "metadata.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": 99}))
    with pytest.raises(IndexInvalid, match="format 99"):
        load_index(tmp_path / "v1")


def test_a_save_that_breaks_off_leaves_no_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = _index()[0]
    monkeypatch.setattr("qanchor.storage.vectors.files.pa.ipc.new_file", _interrupt)
    with pytest.raises(KeyboardInterrupt):
        save_index(index, tmp_path / "v1")
    assert not (tmp_path / "v1").exists()
    monkeypatch.undo()
    save_index(index, tmp_path / "v1")
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
        save_index(_index()[0], tmp_path / "v1")
    assert not (tmp_path / "v1").exists()
