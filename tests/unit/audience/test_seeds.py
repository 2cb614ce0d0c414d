"""Every line of a seeds file is searched with or reported."""

import numpy as np
import pytest

from qanchor.audience.population import find_seeds
from qanchor.audience.saved import hash_users
from qanchor.errors import SeedsInvalid
from tests.unit.audience.worlds import clustered, names, population_of


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
