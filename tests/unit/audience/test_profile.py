"""A profile names what differs, by how much, and reads nothing at or after the embeddings' cut-off."""

from pathlib import Path

import numpy as np
import pytest

from qanchor.audience.candidates import CandidateRules, find_candidates
from qanchor.audience.population import Population
from qanchor.audience.profile import log_ratio, profile_audience, profile_mentions, standardised_difference
from qanchor.errors import NotReady
from qanchor.storage.event_log import EventLog
from tests.unit.audience.worlds import AS_OF, clustered, names, population_of, write_features
from tests.unit.embedding.world import START, add_events

CUT_OFF = (AS_OF - START).days


@pytest.fixture
def lived(tmp_path: Path) -> tuple[Population, EventLog]:
    """200 users: the first 50 have many bills in the features, all the others a card in the log."""
    users = names(200)
    features = write_features(
        tmp_path,
        [
            {"user_id": user, "at": AS_OF, "bills": 30.0 + n % 3 if n < 50 else 3.0 + n % 3, "band": "old"}
            for n, user in enumerate(users)
        ],
    )
    events = [(user, 1.0 + n % 3, "bill" if n < 50 else "card") for n, user in enumerate(users)]
    # At the cut-off and later: everybody, so that a leak would level the difference.
    events += [(user, float(CUT_OFF), "bill") for user in users]
    add_events(features.site.home, features.site.workspace, events)
    log = features.site.event_log
    return population_of(clustered(200), features=features), log


def test_levels_modalities_and_categories_that_differ_are_named(lived: tuple[Population, EventLog]) -> None:
    population, log = lived
    candidates = find_candidates(population, CandidateRules(), np.empty(0, np.int64))
    profile = profile_audience(population, np.arange(50), candidates, log)
    traits = {trait.name: trait for trait in profile.traits}
    assert (profile.audience, profile.base) == (50, 150)
    bills = traits["act_bill_count_30d"]
    assert bills.effect > 3
    assert bills.low > 0
    assert bills.audience == pytest.approx(31, abs=0.2)
    assert (traits["bill"].audience, traits["bill"].base) == (1.0, 0.0)
    assert (traits["card"].audience, traits["card"].base) == (0.0, 1.0)
    assert traits["bill shop corner"].ratio > 50
    assert profile.of("modality")[0].name in ("bill", "card")


def test_events_that_name_words_are_counted_for_each_user(lived: tuple[Population, EventLog]) -> None:
    population, log = lived
    candidates = find_candidates(population, CandidateRules(), np.empty(0, np.int64))
    trait = profile_mentions(population, np.arange(40), candidates, log, ["corner"])
    assert (trait.audience, trait.base) == pytest.approx((1.0, 2 ** (10 / 160) - 1))
    assert trait.low > 0
    assert profile_mentions(population, np.arange(40), candidates, log, ["corn"]).audience == 0


def test_an_audience_of_everybody_has_nobody_to_be_compared_with(lived: tuple[Population, EventLog]) -> None:
    population, log = lived
    candidates = find_candidates(population, CandidateRules(), np.empty(0, np.int64))
    with pytest.raises(NotReady, match="nobody to compare"):
        profile_audience(population, np.arange(200), candidates, log)


def test_the_standardised_difference_is_in_standard_deviations() -> None:
    random = np.random.default_rng(0)
    base = random.normal(5, 2, 20_000)
    effect, low, high = standardised_difference(random.normal(6, 2, 20_000), base)
    assert effect == pytest.approx(0.5, abs=0.03)
    assert low < 0.5 < high
    assert standardised_difference(np.ones(5), np.ones(9)) == (0.0, 0.0, 0.0)


def test_the_interval_of_a_ratio_covers_it_as_often_as_it_says() -> None:
    random = np.random.default_rng(1)
    covered = 0
    for _ in range(400):
        found = int(random.binomial(300, 0.2)), int(random.binomial(2_000, 0.1))
        _, low, high = log_ratio(found, (300, 2_000))
        covered += low <= np.log(2) <= high
    assert 0.92 < covered / 400 < 0.98


@pytest.mark.parametrize("value", [0.1, 1e6 + 0.1, 0.0])
def test_equal_values_do_not_differ_by_their_rounding_errors(value: float) -> None:
    assert standardised_difference(np.full(103, value), np.full(77, value) * (1 + 2e-16)) == (0, 0, 0)
