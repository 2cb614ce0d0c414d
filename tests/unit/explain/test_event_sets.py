"""The search for events that move a score together, on scores that are known in full."""

from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from qanchor.explain.event_sets import EventEffect, candidates, strongest_together

Int64 = NDArray[np.int64]
Floats = NDArray[np.float64]


class Score:
    """Raw 0 without a loss; a loss of rows moves it by what `of` says."""

    def __init__(self, **of: float) -> None:
        self._of = {frozenset(map(int, key.strip("_").split("_"))): value for key, value in of.items()}
        self.measured: list[frozenset[int]] = []

    def __call__(self, left_out: Sequence[Int64]) -> Floats:
        sets = [frozenset(rows.tolist()) for rows in left_out]
        self.measured += sets
        return np.array([sum(v for key, v in self._of.items() if key <= rows) for rows in sets])


def moved(score: Score, pulls: Sequence[float]) -> list[EventEffect]:
    single = score([np.array([row]) for row in range(len(pulls))])
    return [
        EventEffect(row, pull, -float(value))
        for row, (pull, value) in enumerate(zip(pulls, single, strict=True))
    ]


def test_events_that_cancel_each_other_are_not_named_together() -> None:
    # Alone 0 and 1 are the strongest; together they undo each other, and 2 goes with 0.
    score = Score(_0=-1.0, _1=-0.9, _2=-0.5, _0_1=1.8)
    joint = strongest_together(moved(score, [1, 1, 1, 1]), 0.0, score, 2)
    assert set(joint.rows) == {0, 2}
    assert joint.effect == pytest.approx(1.5)


def test_a_side_that_moves_the_score_further_wins() -> None:
    score = Score(_0=-0.4, _1=-0.4, _2=0.5, _3=0.6)
    joint = strongest_together(moved(score, [1, 1, -1, -1]), 0.0, score, 2)
    assert set(joint.rows) == {2, 3}
    assert joint.effect == pytest.approx(-1.1)


def test_where_no_event_has_an_effect_alone_the_gradient_leads() -> None:
    score = Score(_2_4=-0.7)
    joint = strongest_together(moved(score, [0.1, 0.2, 0.9, 0.3, 0.8]), 0.0, score, 2)
    assert set(joint.rows) == {2, 4}
    assert joint.effect == pytest.approx(0.7)


def test_a_score_that_nothing_moves_has_no_effect() -> None:
    score = Score()
    joint = strongest_together(moved(score, [0.1, 0.2, 0.3]), 0.0, score, 2)
    assert (len(joint.rows), joint.effect) == (2, 0)
    assert strongest_together([], 0.0, score, 2).rows == ()


def test_every_set_that_is_measured_is_one_larger_than_the_one_before() -> None:
    score = Score(_0=-1.0, _3=0.5)
    singles = moved(score, [1.0] * 6)
    score.measured.clear()
    assert len(strongest_together(singles, 0.0, score, 4).rows) == 4
    assert [len(rows) for rows in score.measured] == [2] * 10 + [3] * 8 + [4] * 6


def test_candidates_are_half_the_strongest_by_effect_and_half_by_gradient() -> None:
    events = [EventEffect(row, pull=float(row), effect=1.0 / (row + 1)) for row in range(10)]
    assert [event.row for event in candidates(events, 4)] == [0, 1, 9, 8]
    assert [event.row for event in candidates(events, 3)] == [0, 1, 9]
    assert sorted(event.row for event in candidates(events, 40)) == list(range(10))
    ties = [EventEffect(row, pull=float(row % 3), effect=0.0) for row in range(6)]
    assert [event.row for event in candidates(ties, 2)] == [2, 5]
