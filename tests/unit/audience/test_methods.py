"""Each method finds what it is for, the blocked search equals a full one, and auto takes the best."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qanchor.audience.methods import METHODS, Method, choose_method, fit_scorer, held_out_ranks
from qanchor.audience.scorers import DirectionScorer, best_rows, mix, nearest_seeds, rows_above
from qanchor.errors import SeedsInvalid
from qanchor.metrics import roc_auc
from tests.unit.audience.worlds import WIDTH, clustered, population_of, unit


@pytest.mark.parametrize("method", METHODS)
def test_every_method_finds_the_seeds_kind(method: Method) -> None:
    vectors = clustered()
    scorer = fit_scorer(method, vectors[:30], vectors[60:])
    labels = (np.arange(30, 600) < 60).astype(int)
    assert roc_auc(labels, scorer.score(vectors[30:])) > 0.85


def test_centroids_and_nearest_find_two_kinds_that_lie_apart() -> None:
    random = np.random.default_rng(1)
    values = random.normal(size=(900, WIDTH)) * 0.3
    values[:, 0] += 3
    values[:60, 1] += 2
    values[60:120, 1] -= 2
    # Others are as far from the common direction, another way: no straight line tells the seeds from them.
    values[120:, 2] += np.where(np.arange(780) % 2, 2, -2)
    vectors = unit(values)
    seeds = np.concatenate([vectors[:30], vectors[60:90]])
    held = np.concatenate([np.arange(30, 60), np.arange(90, 120)])
    others = np.arange(120, 900)
    labels = np.repeat([1, 0], [len(held), len(others)])
    areas = {}
    for method in METHODS:
        scorer = fit_scorer(method, seeds, vectors[others])
        areas[method] = roc_auc(labels, scorer.score(vectors[np.concatenate([held, others])]))
    assert min(areas["centroids"], areas["nearest"]) > 0.97
    assert max(areas["centroid"], areas["classifier"]) < 0.9
    chosen = choose_method("auto", seeds, vectors[others], 0.05)
    assert chosen.method in ("centroids", "nearest")


@settings(max_examples=40, deadline=None)
@given(data=st.data(), method=st.sampled_from(METHODS), rows=st.integers(20, 80))
def test_the_best_rows_equal_a_full_sort(data: st.DataObject, method: Method, rows: int) -> None:
    vectors = clustered(rows, rows // 3, seed=data.draw(st.integers(0, 99)))
    index = population_of(vectors).index
    allowed = np.array(data.draw(st.lists(st.booleans(), min_size=rows, max_size=rows)))
    allowed[0] = True
    k = data.draw(st.integers(1, int(allowed.sum())))
    scorer = fit_scorer(method, vectors[:12], vectors[12:])
    scores, found = best_rows(index, scorer, k, allowed)
    every = np.where(allowed, scorer.score(vectors), -np.inf)
    np.testing.assert_allclose(scores, np.sort(every)[::-1][:k], atol=1e-5)
    assert len(set(found.tolist())) == k
    assert allowed[found].all()
    least = float(scores[-1])
    above = rows_above(index, scorer, least, allowed)[1]
    assert set(above.tolist()) >= {row for row in found.tolist() if every[row] > least + 1e-5}


def test_equal_scores_are_ranked_by_row() -> None:
    index = population_of(np.tile(clustered(1, 0), (7, 1))).index
    scorer = DirectionScorer(np.ones((1, WIDTH), np.float32))
    assert best_rows(index, scorer, 3, np.arange(7) > 1)[1].tolist() == [2, 3, 4]


def test_auto_says_what_every_method_finds_and_takes_the_best() -> None:
    vectors = clustered()
    choice = choose_method("auto", vectors[:40], vectors[60:], 0.05)
    assert set(choice.recall) == set(METHODS)
    assert choice.recall[choice.method] == max(choice.recall.values())
    assert choice.held_out == 40
    assert choice.shares == (0.05, 0.1, 0.2)
    assert choice.runner_up is not None


def test_few_seeds_are_not_compared_and_no_classifier_is_learned_from_them() -> None:
    vectors = clustered()
    assert choose_method("auto", vectors[:4], vectors[60:], 0.05).method == "centroid"
    assert "classifier" not in choose_method("auto", vectors[:9], vectors[60:], 0.05).recall
    with pytest.raises(SeedsInvalid, match="too few for a classifier"):
        choose_method("classifier", vectors[:9], vectors[60:], 0.05)


def test_a_held_out_seed_is_not_learned_from() -> None:
    # Noise has nothing to learn: only a method that saw the held-out seeds could rank them above chance.
    random = np.random.default_rng(3)
    noise = unit(random.normal(size=(1_000, WIDTH)))
    for method in METHODS:
        ranks = held_out_ranks(method, noise[:200], noise[200:], np.arange(200) % 5, 0.3)
        assert 0.42 < ranks.mean() < 0.58


@pytest.mark.parametrize("method", METHODS)
def test_a_mixture_ranks_by_the_standardised_sum(method: Method) -> None:
    vectors = clustered()
    learned = fit_scorer(method, vectors[:30], vectors[60:])
    words = DirectionScorer(np.eye(WIDTH, dtype=np.float32)[2:3])
    mixed = mix([words, learned], [0.25, 0.75], vectors[60:])
    plain = (
        DirectionScorer(learned.queries, learned.offset) if isinstance(learned, DirectionScorer) else learned
    )
    parts = [(part.score(vectors), part.score(vectors[60:])) for part in (words, plain)]
    wanted = sum(
        weight * (score - others.mean()) / others.std()
        for weight, (score, others) in zip((0.25, 0.75), parts, strict=True)
    )
    np.testing.assert_allclose(mixed.score(vectors), wanted, atol=2e-4)


def test_nearest_seeds_are_the_closest_first() -> None:
    vectors = clustered(50)
    cosines, places = nearest_seeds(population_of(vectors).index, vectors[:9], np.arange(20, 50), 3)
    full = vectors[20:50] @ vectors[:9].T
    np.testing.assert_allclose(cosines, -np.sort(-full, axis=1)[:, :3], atol=1e-5)
    np.testing.assert_array_equal(places[:, 0], full.argmax(axis=1))
