"""A run that has to fill a time fills it, however the machine slows down on the way."""

import itertools
from collections.abc import Callable

import pytest

from qanchor.training.schedule import FEWEST_STEPS, Pace, last_step, steps_that_fit, warm_up_cosine

BUDGET = 180.0


def _seconds(first: Pace, each: Callable[[float], float]) -> tuple[float, list[float]]:
    """Duration of a run whose steps take `each(seconds so far)`, and its positions in the schedule."""
    pace, spent, done, positions = first, 0.0, 0, []
    while done < pace.last:
        until, began, from_step = pace.next_replan(), spent, done
        for step in range(done, until):
            positions.append(pace.at(step) / pace.steps)
            spent += each(spent)
        done = until
        if until < pace.last:
            last = last_step(done, BUDGET - spent, (spent - began) / (done - from_step))
            pace = pace.replanned(done, last)
    return spent, positions


@pytest.mark.parametrize(
    "each",
    [
        pytest.param(lambda _: 0.5, id="as in the trial"),
        pytest.param(lambda _: 1.0, id="twice as long from the start"),
        pytest.param(lambda _: 0.25, id="half as long from the start"),
        pytest.param(lambda spent: 0.5 if spent < 60 else 1.5, id="three times as long after a minute"),
        pytest.param(lambda spent: 0.5 if int(spent / 20) % 2 else 1.5, id="by turns"),
    ],
)
def test_the_time_is_filled_and_the_schedule_goes_all_the_way(each: Callable[[float], float]) -> None:
    steps = steps_that_fit(BUDGET, [0.5, 0.5, 0.5])
    spent, positions = _seconds(Pace(steps, steps), each)
    assert spent == pytest.approx(BUDGET, rel=0.05)
    rises = [after - before for before, after in itertools.pairwise(positions)]
    assert min(rises) > 0
    assert positions[-1] > 0.95
    assert max(rises) < 0.03  # no jump


def test_a_run_that_keeps_its_plan_is_where_it_would_be_without_one() -> None:
    pace = Pace(37, 37)
    for step in (2, 6, 20):
        pace = pace.replanned(step, 37)
    assert [pace.at(step) for step in range(20, 37)] == list(range(20, 37))


def test_one_slow_batch_of_a_trial_does_not_decide() -> None:
    assert steps_that_fit(60, [0.5, 9.0, 0.5]) == 120


def test_a_time_that_is_over_ends_the_run_after_the_fewest_steps() -> None:
    assert last_step(3, -10.0, 1.0) == FEWEST_STEPS
    assert last_step(50, -10.0, 1.0) == 51
    assert Pace(FEWEST_STEPS, FEWEST_STEPS).replanned(19, 20).next_replan() == 20


def test_the_learning_rate_rises_to_its_peak_and_falls_to_its_floor() -> None:
    shares = [warm_up_cosine(step, 100, 10) for step in range(100)]
    assert shares[9] == pytest.approx(1.0)
    assert shares[:10] == sorted(shares[:10])
    assert shares[10:] == sorted(shares[10:], reverse=True)
    assert shares[-1] == pytest.approx(0.02, abs=0.01)
