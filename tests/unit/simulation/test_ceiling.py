import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qanchor.simulation.ceiling import ceiling, expected_auc, future_frequencies
from qanchor.simulation.config import WorldPlan
from qanchor.simulation.world import Block


def _slow_expected(ranking: np.ndarray, probability: np.ndarray) -> float:
    """Ordered pairs over pairs, each averaged over every way the labels may fall."""
    right = total = 0.0
    for labels in itertools.product((0, 1), repeat=len(ranking)):
        weight = np.prod([p if y else 1 - p for p, y in zip(probability, labels, strict=True)])
        for i, j in itertools.product(range(len(ranking)), repeat=2):
            if labels[i] == 1 and labels[j] == 0:
                total += weight
                right += weight * (
                    1.0 if ranking[i] > ranking[j] else 0.5 if ranking[i] == ranking[j] else 0.0
                )
    return right / total


@given(
    st.lists(st.tuples(st.integers(0, 3), st.floats(0.05, 0.95)), min_size=2, max_size=6),
)
def test_the_formula_equals_enumerating_every_labelling(rows: list[tuple[int, float]]) -> None:
    ranking = np.array([float(s) for s, _ in rows])
    probability = np.array([p for _, p in rows])

    assert expected_auc(ranking, probability) == pytest.approx(_slow_expected(ranking, probability), abs=1e-9)


def test_certain_labels_give_the_ordinary_auc() -> None:
    assert expected_auc(np.array([0.1, 0.4, 0.35, 0.8]), np.array([0.0, 0.0, 1.0, 1.0])) == pytest.approx(
        0.75
    )


def test_frequencies_that_are_chance_alone_have_no_ceiling_above_a_coin() -> None:
    rng = np.random.default_rng(0)
    a, b = (rng.binomial(20, 0.2, 4000) / 20 for _ in range(2))

    result = ceiling((a, b), rng.random(4000) < 0.2)

    # Ranking and weighing with the same frequencies would say 0.62.
    assert result.expected == pytest.approx(0.5, abs=0.02)
    assert expected_auc(a, a) > 0.6


def test_imagined_futures_agree_with_those_that_happened(plan: WorldPlan, block: Block) -> None:
    mean = (block.halves[0] + block.halves[1]).mean(axis=0) / 2
    happened = block.labels[block.split == 2].mean(axis=0)
    rows = (block.split == 2).sum()

    assert np.all(np.abs(mean - happened) < 4.5 * np.sqrt(np.maximum(mean * (1 - mean), 0.01) / rows))


def test_imagined_frequencies_are_shares_of_the_paths(plan: WorldPlan, life) -> None:  # type: ignore[no-untyped-def]
    result = future_frequencies(plan, life.test_state.take(np.arange(5)), 4, np.random.default_rng(1))

    assert result.shape == (5, 10)
    assert set(np.unique(result)) <= {0.0, 0.25, 0.5, 0.75, 1.0}
