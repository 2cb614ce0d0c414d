"""Every line of a seeds file is searched with or reported."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import pytest

from qanchor.audience.seeds import find_seeds, hash_users, read_users
from qanchor.errors import SeedsInvalid
from tests.unit.audience.worlds import clustered, names, population_of


@pytest.mark.parametrize("kind", ["txt", "headed.txt", "csv", "parquet"])
def test_users_are_read_from_text_csv_and_parquet(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"seeds.{kind}"
    table = pa.table({"note": ["x", "y", "z"], "user_id": ["007", "b", "007"]})
    if kind == "csv":
        pa_csv.write_csv(table, path)
    elif kind == "parquet":
        pq.write_table(table, path)
    else:
        path.write_text(("user_id\n" if "headed" in kind else "") + "007\n\n b \n007\n")
    assert read_users(path) == ["007", "b", "007"]


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
def test_a_file_that_does_not_hold_is_refused(
    tmp_path: Path, name: str, content: str | None, said: str
) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_text(content)
    with pytest.raises(SeedsInvalid, match=said):
        read_users(path)


def test_unknown_eventless_and_repeated_seeds_are_told_apart() -> None:
    eventless = np.zeros(40, bool)
    eventless[[5, 6]] = True
    population = population_of(clustered(40), eventless)
    seeds = find_seeds(population, ["u00001", "ghost", "u00001", "u00005", "u00002", "wraith"])
    assert seeds.users.to_pylist() == ["u00001", "u00002"]
    assert seeds.unknown == ("ghost", "wraith")
    assert (seeds.without_events, seeds.duplicates) == (("u00005",), 1)
    np.testing.assert_array_equal(seeds.vectors, population.index.vectors(seeds.rows))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["ghost"], "none of the 1 seeds"),
        ([], "none of the 0"),
        (["u00005", "ghost"], "1 have no events .* and 1 have no embedding"),
        (["u00001"] * 3, "all the same user"),
        (["u00010", "u00011"], "identical"),
    ],
)
def test_seeds_that_nothing_can_be_learned_from_are_refused(given: list[str], said: str) -> None:
    vectors = clustered(40)
    vectors[11] = vectors[10]
    population = population_of(vectors, np.arange(40) == 5)
    with pytest.raises(SeedsInvalid, match=said):
        find_seeds(population, given)


def test_the_hash_is_of_the_set() -> None:
    assert hash_users(["b", "a", "b"]) == hash_users(["a", "b"]) != hash_users(names(2))
