"""Quality says what a list is worth before it is used: held-out seeds, their lift, their own kind."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qanchor.audience.candidates import CandidateRules
from qanchor.audience.lift import measure_overlap, measure_quality, wilson_interval
from qanchor.audience.lookalike import LookalikeRequest, find_lookalikes
from qanchor.charts.audience_chart import audience_lift_chart
from qanchor.errors import SeedsInvalid
from tests.unit.audience.worlds import WIDTH, clustered, names, population_of, unit


def test_seeds_of_one_kind_are_found_and_strangers_are_not() -> None:
    kind = measure_quality(population_of(clustered(2_000, 100)), LookalikeRequest(names(50), 100, "centroid"))
    best = {point.share: point for point in kind.points}
    assert best[0.05].lift > 5
    assert best[0.05].users == 98
    random = np.random.default_rng(0).normal(size=(2_000, WIDTH))
    noise = measure_quality(population_of(unit(random)), LookalikeRequest(names(200), 100, "centroid"))
    low, high = {point.share: point for point in noise.points}[0.2].lift_interval
    assert low < 1 < high


def test_the_share_that_is_asked_for_is_judged_and_every_seed_held_out_once() -> None:
    quality = measure_quality(population_of(clustered()), LookalikeRequest(names(40), 42, "nearest"))
    assert len(quality.ranks) == 40
    assert [point.users for point in quality.points if point.share == 42 / 560] == [42]
    assert quality.methods == {"nearest": 5}
    recalls = [point.recall for point in quality.curve([0.01, 0.1, 0.5, 1.0])]
    assert recalls == sorted(recalls)
    assert recalls[-1] == 1.0


def test_the_method_is_chosen_anew_without_the_held_out_seeds() -> None:
    quality = measure_quality(population_of(clustered()), LookalikeRequest(names(50), 42))
    assert sum(quality.methods.values()) == 5


def test_too_few_seeds_cannot_be_judged() -> None:
    with pytest.raises(SeedsInvalid, match="only 4 of the seeds can be held out"):
        measure_quality(population_of(clustered()), LookalikeRequest(names(4), 10))


def test_exclusions_do_not_count_as_held_out() -> None:
    rules = CandidateRules(exclude=names(3))
    quality = measure_quality(
        population_of(clustered()), LookalikeRequest(names(30), 10, "centroid", rules=rules)
    )
    assert (len(quality.ranks), quality.outside) == (27, 3)


def test_a_list_of_the_seeds_kind_overlaps_with_them_more_than_everybody_does() -> None:
    population = population_of(clustered(2_000, 100))
    found = find_lookalikes(population, LookalikeRequest(names(50), 40, "nearest"))
    assert found.seeds is not None
    overlap = measure_overlap(population, found.seeds, found.rows, found.candidates)
    assert overlap.audience > 0.9
    assert overlap.base < 0.8


def test_the_interval_of_a_share_is_wilsons() -> None:
    # Newcombe, Statistics in Medicine 17 (1998), table I, method 3.
    assert wilson_interval(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert wilson_interval(0, 20) == pytest.approx((0.0, 0.1611), abs=5e-5)
    assert wilson_interval(1, 29) == pytest.approx((0.0061, 0.1718), abs=5e-5)


@given(trials=st.integers(1, 500), data=st.data())
def test_the_interval_holds_the_share(trials: int, data: st.DataObject) -> None:
    successes = data.draw(st.integers(0, trials))
    low, high = wilson_interval(successes, trials)
    assert 0 <= low <= successes / trials <= high <= 1


def test_the_chart_ends_at_a_lift_of_one_and_keeps_its_interval_around_the_curve() -> None:
    quality = measure_quality(population_of(clustered()), LookalikeRequest(names(40), 42, "centroid"))
    chart = audience_lift_chart(quality, "money")
    lines = {series.name: series for series in chart.series if series.name}
    curve = lines["held-out seeds"]
    assert (curve.x[-1], curve.y[-1]) == (1.0, 1.0)
    assert all(low <= lift for low, lift in zip(lines["95% interval"].y, curve.y, strict=True))
