"""Lookalikes are those that a full scan would rank first, and no seed is dropped in silence."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from qanchor.audience.lookalike import (
    LookalikeRequest,
    Method,
    find_lookalikes,
    read_seeds,
    write_lookalikes,
)
from qanchor.errors import InputError, SeedsInvalid
from qanchor.storage.vectors import IndexMetadata, VectorIndex, build_index


def _vectors(rows: int, seed: int = 0) -> NDArray[np.float32]:
    values = np.random.default_rng(seed).normal(size=(rows, 8)).astype(np.float32)
    unit: NDArray[np.float32] = values / np.linalg.norm(values, axis=1, keepdims=True)
    return unit


def _users(rows: int) -> list[str]:
    return [f"u{number:03d}" for number in range(rows)]


def _index(rows: int = 40, seed: int = 0) -> VectorIndex:
    return build_index(pa.array(_users(rows)), _vectors(rows, seed), IndexMetadata("f", 1, ""))


def _slow(vectors: NDArray[np.float32], seeds: list[int], method: Method) -> NDArray[np.float32]:
    centre = vectors[seeds].mean(axis=0)
    centroid: NDArray[np.float32] = vectors @ (centre / np.linalg.norm(centre))
    nearest: NDArray[np.float32] = (vectors @ vectors[seeds].T).max(axis=1)
    return nearest if method == "nearest" else centroid


@settings(max_examples=30, deadline=None)
@given(
    rows=st.integers(3, 40),
    data=st.data(),
    method=st.sampled_from(["centroid", "nearest"]),
    include=st.booleans(),
)
def test_the_ranking_equals_a_full_scan(
    rows: int, data: st.DataObject, method: Method, include: bool
) -> None:
    seeds = data.draw(st.lists(st.integers(0, rows - 1), min_size=1, max_size=rows - 1, unique=True))
    k = data.draw(st.integers(1, rows))
    names = _users(rows)
    request = LookalikeRequest([names[seed] for seed in seeds], k, method, include)
    table = find_lookalikes(_index(rows), request).table
    scores = _slow(_vectors(rows), seeds, method)
    allowed = [row for row in range(rows) if include or row not in seeds]
    best = sorted(scores[allowed], reverse=True)[:k]
    np.testing.assert_allclose(table["score"].to_numpy(), best, atol=1e-5)
    found = [names.index(user) for user in table["user_id"].to_pylist()]
    np.testing.assert_allclose(scores[found], best, atol=1e-5)
    assert table["rank"].to_pylist() == list(range(1, len(best) + 1))


def test_nearest_seed_and_distance_name_the_seed_that_is_closest() -> None:
    vectors = _vectors(40)
    table = find_lookalikes(_index(), LookalikeRequest(["u001", "u007", "u020"], 10)).table
    for row in table.to_pylist():
        cosines = {
            seed: float(vectors[int(row["user_id"][1:])] @ vectors[int(seed[1:])])
            for seed in ("u001", "u007", "u020")
        }
        assert row["nearest_seed"] == max(cosines, key=cosines.__getitem__)
        assert row["distance"] == pytest.approx(1 - max(cosines.values()), abs=1e-5)


def test_seeds_of_two_kinds_are_both_found_by_nearest_and_not_by_centroid() -> None:
    left, right, middle = np.eye(8, dtype=np.float32)[:3]
    between = (left + right + middle) / np.sqrt(3)
    vectors = np.stack([left, left, right, right, between]).astype(np.float32)
    index = build_index(pa.array(["l1", "l2", "r1", "r2", "m"]), vectors, IndexMetadata("f", 1, ""))
    nearest = find_lookalikes(index, LookalikeRequest(["l1", "r1"], 2, "nearest")).table
    assert set(nearest["user_id"].to_pylist()) == {"l2", "r2"}
    centroid = find_lookalikes(index, LookalikeRequest(["l1", "r1"], 1)).table
    assert centroid["user_id"].to_pylist() == ["m"]


def test_equal_scores_are_ranked_by_id() -> None:
    vectors = np.tile(np.eye(8, dtype=np.float32)[:1], (5, 1))
    index = build_index(pa.array(["e", "c", "a", "d", "b"]), vectors, IndexMetadata("f", 1, ""))
    table = find_lookalikes(index, LookalikeRequest(["c"], 4)).table
    assert table["user_id"].to_pylist() == ["a", "b", "d", "e"]


def test_unknown_and_repeated_seeds_are_reported() -> None:
    found = find_lookalikes(_index(), LookalikeRequest(["u001", "ghost", "u001", "u002", "wraith"], 3))
    assert (found.seeds, found.unknown, found.duplicates) == (2, ("ghost", "wraith"), 1)


def test_more_users_than_there_are_gives_all_and_says_so() -> None:
    found = find_lookalikes(_index(10), LookalikeRequest(["u001"], 500))
    assert (found.table.num_rows, found.population, found.asked) == (9, 9, 500)


@pytest.mark.parametrize(
    ("seeds", "said"), [(["ghost"], "none of the 1 seeds"), ([], "none of the 0"), (_users(10), "every")]
)
def test_seeds_that_leave_nothing_to_search_are_refused(seeds: list[str], said: str) -> None:
    with pytest.raises(SeedsInvalid, match=said):
        find_lookalikes(_index(10), LookalikeRequest(seeds, 3))


@pytest.mark.parametrize("kind", ["txt", "headed.txt", "csv", "parquet"])
def test_seeds_are_read_from_text_csv_and_parquet(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"seeds.{kind}"
    table = pa.table({"note": ["x", "y", "z"], "user_id": ["007", "b", "007"]})
    if kind == "csv":
        pa_csv.write_csv(table, path)
    elif kind == "parquet":
        pq.write_table(table, path)
    else:
        path.write_text(("user_id\n" if "headed" in kind else "") + "007\n\n b \n007\n")
    assert read_seeds(path) == ["007", "b", "007"]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.txt", "\n \n", "names no user"),
        ("a.csv", "id\n1\n", "no column user_id"),
        ("a.csv", "", "cannot be read"),
        ("a.parquet", "no parquet", "cannot be read"),
        ("absent.txt", None, "cannot be read"),
    ],
)
def test_a_seeds_file_that_does_not_hold_is_refused(
    tmp_path: Path, name: str, content: str | None, said: str
) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_text(content)
    with pytest.raises(SeedsInvalid, match=said):
        read_seeds(path)


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_the_audience_is_written_whole(tmp_path: Path, kind: str) -> None:
    found = find_lookalikes(_index(), LookalikeRequest(["u001"], 5))
    path = tmp_path / f"audience.{kind}"
    write_lookalikes(found, path)
    table = pa_csv.read_csv(path) if kind == "csv" else pq.read_table(path)
    assert table["user_id"].to_pylist() == found.table["user_id"].to_pylist()
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("path", [Path("audience.xlsx"), Path("/nowhere/a.csv")])
def test_an_output_that_cannot_be_written_is_refused(path: Path) -> None:
    found = find_lookalikes(_index(), LookalikeRequest(["u001"], 5))
    with pytest.raises(InputError):
        write_lookalikes(found, path)
