"""A search finds whom it may find and says who was left out and why."""

from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest

from qanchor.audience.candidates import CandidateRules
from qanchor.audience.lookalike import LookalikeRequest, find_lookalikes
from qanchor.audience.scorers import DirectionScorer
from qanchor.errors import FilterInvalid, InputError, NotReady, SeedsInvalid
from tests.unit.audience.worlds import AS_OF, WIDTH, clustered, names, population_of, write_features


def test_the_best_come_first_and_no_seed_among_them() -> None:
    population = population_of(clustered())
    found = find_lookalikes(population, LookalikeRequest(names(30), 25))
    rows = found.table.to_pylist()
    assert [row["rank"] for row in rows] == list(range(1, 26))
    scores = [row["score"] for row in rows]
    assert scores == sorted(scores, reverse=True)
    users = [row["user_id"] for row in rows]
    assert not set(users) & set(names(30))
    assert len(set(users) & set(names(30, 30))) > 15
    assert found.choice is not None
    assert found.choice.recall


def test_nearest_seeds_and_distance_belong_together() -> None:
    vectors = clustered()
    found = find_lookalikes(population_of(vectors), LookalikeRequest(names(5), 10, "centroid"))
    for row in found.table.to_pylist():
        cosines = vectors[:5] @ vectors[int(row["user_id"][1:])]
        order = [names(5)[place] for place in np.argsort(-cosines)[:3]]
        assert row["nearest_seeds"] == order
        assert row["distance"] == pytest.approx(1 - cosines.max(), abs=1e-5)


def test_everybody_who_is_left_out_is_counted_once(tmp_path: Path) -> None:
    before = AS_OF - timedelta(days=1)
    features = write_features(
        tmp_path,
        [{"user_id": u, "at": before, "bills": float(n), "band": None} for n, u in enumerate(names(90))],
    )
    population = population_of(clustered(100), np.arange(100) >= 95, features)
    rules = CandidateRules("act_bill_count_30d < 50", [*names(10, 5), "ghost", "u00099"])
    found = find_lookalikes(
        population, LookalikeRequest([*names(10), "u00096"], None, "centroid", rules=rules)
    )
    left = found.candidates
    assert (left.eventless, left.seeds, left.excluded, left.unknown_excluded) == (5, 10, 5, 1)
    assert (left.filtered, left.undecided, left.population) == (45, 5, 35)
    assert set(found.table["user_id"].to_pylist()) == set(names(35, 15))
    assert found.seeds is not None
    assert found.seeds.without_events == ("u00096",)


def test_a_filter_costs_no_recall(tmp_path: Path) -> None:
    vectors = clustered(3_000, 300)
    kept = names(3_000)[::20]
    features = write_features(
        tmp_path, [{"user_id": u, "at": AS_OF, "bills": 1.0, "band": "old"} for u in kept]
    )
    rules = CandidateRules("prof_band = 'old'")
    request = LookalikeRequest(names(40), 50, "centroid", rules=rules)
    found = find_lookalikes(population_of(vectors, features=features), request)
    allowed = np.setdiff1d(np.arange(0, 3_000, 20), np.arange(40))
    scores = found.scorer.score(vectors)
    best = allowed[np.argsort(-scores[allowed], kind="stable")[:50]]
    assert found.table["user_id"].to_pylist() == [f"u{row:05d}" for row in best]


def test_users_without_events_can_be_asked_for() -> None:
    population = population_of(clustered(60), np.arange(60) >= 50)
    kept = LookalikeRequest(names(10), None, "centroid", rules=CandidateRules(include_eventless=True))
    assert find_lookalikes(population, kept).candidates.population == 50
    assert (
        find_lookalikes(population, LookalikeRequest(names(10), None, "centroid")).candidates.population == 40
    )


def test_seeds_can_be_found_when_asked_for() -> None:
    rules = CandidateRules(include_seeds=True)
    found = find_lookalikes(
        population_of(clustered()), LookalikeRequest(names(30), 30, "nearest", rules=rules)
    )
    assert set(found.table["user_id"].to_pylist()) & set(names(30))


def test_a_threshold_takes_everybody_who_reaches_it() -> None:
    population = population_of(clustered())
    every = find_lookalikes(population, LookalikeRequest(names(30), 570, "centroid")).table
    least = every["score"][99].as_py()
    above = find_lookalikes(population, LookalikeRequest(names(30), None, "centroid", threshold=least)).table
    assert above["user_id"].to_pylist() == every["user_id"].to_pylist()[:100]
    few = find_lookalikes(population, LookalikeRequest(names(30), 7, "centroid", threshold=least)).table
    assert few.num_rows == 7
    none = find_lookalikes(population, LookalikeRequest(names(30), None, "centroid", threshold=99.0)).table
    assert none.num_rows == 0


def test_words_alone_and_words_with_seeds_rank() -> None:
    population = population_of(clustered())
    words = DirectionScorer(np.eye(WIDTH, dtype=np.float32)[1:2])
    alone = find_lookalikes(population, LookalikeRequest((), 40), words)
    assert (alone.choice, alone.seeds) == (None, None)
    assert alone.table["distance"].null_count == 40
    assert len(set(alone.table["user_id"].to_pylist()) & set(names(60))) > 30
    both = find_lookalikes(population, LookalikeRequest(names(20), 40, words_weight=0.3), words)
    assert both.table["distance"].null_count == 0
    with pytest.raises(InputError, match=r"is outside \(0, 1\)"):
        find_lookalikes(population, LookalikeRequest(names(20), 40, words_weight=1.5), words)


@pytest.mark.parametrize(
    ("request_", "kind", "said"),
    [
        (LookalikeRequest(names(5), 56), InputError, "only 55 can be found. Request at most 55"),
        (LookalikeRequest(names(60), 1), SeedsInvalid, "nobody is left"),
        (LookalikeRequest((), 1), SeedsInvalid, "none of the 0 seeds"),
        (LookalikeRequest(names(5), rules=CandidateRules("true")), NotReady, "no features"),
    ],
)
def test_what_cannot_be_found_is_refused(
    request_: LookalikeRequest, kind: type[Exception], said: str
) -> None:
    with pytest.raises(kind, match=said):
        find_lookalikes(population_of(clustered(60)), request_)


def test_a_filter_that_nobody_passes_is_refused(tmp_path: Path) -> None:
    features = write_features(tmp_path, [{"user_id": "u00001", "at": AS_OF, "bills": 1.0, "band": None}])
    with pytest.raises(FilterInvalid, match="nobody of 55 users passes the filter"):
        find_lookalikes(
            population_of(clustered(60), features=features),
            LookalikeRequest(names(5), rules=CandidateRules("act_bill_count_30d > 5")),
        )
