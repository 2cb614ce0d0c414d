"""Summaries: each group has the requested weight, and every span has the same numbers."""

from dataclasses import astuple, replace

import numpy as np
import pytest
from scipy.sparse import csr_matrix

from qanchor.training.useru.spans import NEVER, Span
from qanchor.training.useru.summaries import SummaryShares, summarise

CHANCE = np.random.default_rng(0)
POINTS = 200
COUNTS = CHANCE.poisson(2.0, (POINTS, 2))
PRICES = CHANCE.normal(2.0, 1.0, (POINTS, 1))
AMOUNTS = np.where(COUNTS[:, :1] > 0, CHANCE.lognormal(3.0, 1.0, (POINTS, 1)), np.nan)
SPAN = Span(
    30,
    COUNTS,
    np.zeros((POINTS, 2, 2), np.int64),
    COUNTS.sum(axis=1),
    np.where(COUNTS > 0, 5.0 + np.arange(POINTS)[:, None] % 7, NEVER),
    (np.concatenate([PRICES, AMOUNTS], axis=1), np.empty((POINTS, 0))),
    (np.array([False, True]), np.empty(0, bool)),
    csr_matrix(CHANCE.poisson(1.0, (POINTS, 3))),
)
TOPICS = CHANCE.poisson(3.0, (POINTS, 5))


@pytest.mark.parametrize("group", range(7))
def test_a_group_weighs_its_share_however_many_numbers_it_has(group: int) -> None:
    shares = SummaryShares(0.1, 0.1, 0.2, 0.1, 0.1, 0.3, 0.1)
    widths = [5, 2, 1, 1, 1, 2 + 6 * 2 + 2 * 4, 3]
    numbers = summarise(SPAN, TOPICS, shares)
    assert numbers.shape == (POINTS, sum(widths))
    group_numbers = numbers[:, sum(widths[:group]) : sum(widths[: group + 1])]
    # A column that is the same for all has no weight to give; missing and cut values give a little less.
    weight = group_numbers.var(axis=0)[group_numbers.var(axis=0) > 0].mean() * widths[group]
    assert weight == pytest.approx(astuple(shares)[group] * sum(widths), rel=0.25)


def test_a_group_without_a_share_is_left_out() -> None:
    assert summarise(SPAN, TOPICS, SummaryShares()).shape[1] == 5 + 2 + 1 + 1 + 1


def test_a_span_where_nothing_happened_has_as_many_numbers() -> None:
    shares = SummaryShares(levels=0.3, terms=0.2)
    nothing = replace(
        SPAN,
        counts=np.zeros_like(COUNTS),
        nearest=np.full((POINTS, 2), NEVER),
        numbers=(np.full((POINTS, 2), np.nan), np.empty((POINTS, 0))),
        terms=csr_matrix((POINTS, 3)),
    )
    numbers = summarise(nothing, np.zeros_like(TOPICS), shares)
    assert numbers.shape == summarise(SPAN, TOPICS, shares).shape
    assert np.isfinite(numbers).all()


def test_levels_say_how_often_how_soon_and_how_much() -> None:
    levels = summarise(SPAN, TOPICS, SummaryShares(0, 0, 0, 0, 0, 1.0, 0))
    soonest, any_purchase, top_quarter = levels[:, 0], levels[:, 2], levels[:, -1]
    assert np.corrcoef(any_purchase, COUNTS[:, 0] > 0)[0, 1] == pytest.approx(1.0)
    assert soonest[COUNTS[:, 0] == 0].min() >= soonest.max() - 1e-6
    assert (
        np.corrcoef(top_quarter, np.nan_to_num(AMOUNTS[:, 0]) >= np.nanquantile(AMOUNTS, 0.9))[0, 1] > 0.999
    )


def test_what_a_user_buys_is_weighed_apart_from_how_much() -> None:
    (amounts,) = summarise(SPAN, TOPICS, SummaryShares(0, 0, 0, 1.0, 0)).T
    (prices,) = summarise(SPAN, TOPICS, SummaryShares(0, 0, 0, 0, 1.0)).T
    known = COUNTS[:, 0] > 0
    assert np.corrcoef(amounts[known], np.log1p(AMOUNTS[known, 0]))[0, 1] > 0.999
    logarithms = np.sign(PRICES[:, 0]) * np.log1p(np.abs(PRICES[:, 0]))
    assert np.corrcoef(prices, logarithms)[0, 1] > 0.99
    levels = [summarise(SPAN, TOPICS, SummaryShares(0, 0, 0, 1.0, share, 1.0)) for share in (0, 0.1)]
    assert levels[1].shape[1] == levels[0].shape[1] + 1 + 4  # the logarithm, and whether it reaches so much
