import subprocess
import sys

import numpy as np
import pytest
from scipy import stats

from qanchor.errors import InputError
from qanchor.experiments import Experiment, assign, positions

USERS = [f"u{number:07d}" for number in range(20_000)]
HALVES = {"control": 0.5, "treatment": 0.5}


def test_arms_are_the_same_in_another_process() -> None:
    code = (
        "from qanchor.experiments import Experiment, assign\n"
        "e = Experiment('spring', {'control': 0.5, 'treatment': 0.5})\n"
        "print(assign(e, [f'u{n:07d}' for n in range(50)]).tolist())"
    )
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout

    assert other.strip() == str(assign(Experiment("spring", HALVES), USERS[:50]).tolist())


def test_these_arms_never_change() -> None:
    # Written down once: a change of the hash would move users of running experiments to other arms.
    arms = assign(Experiment("spring", HALVES), [f"u{number}" for number in range(12)])

    assert arms.tolist() == [1, 0, 1, 1, 1, 0, 0, 0, 0, 1, 1, 1]


def test_a_user_keeps_the_arm_whoever_else_takes_part() -> None:
    experiment = Experiment("spring", HALVES)

    assert assign(experiment, USERS[100:105]).tolist() == assign(experiment, USERS)[100:105].tolist()


@pytest.mark.parametrize("salt", ["a", "b", "layer", "arm", "spring 2026"])
def test_places_are_uniform(salt: str) -> None:
    drawn = positions(USERS, salt)
    counts = np.histogram(drawn, bins=100, range=(0.0, 1.0))[0]

    assert counts.sum() == len(USERS)
    assert stats.chisquare(counts).pvalue > 1e-4
    assert stats.kstest(drawn, "uniform").pvalue > 1e-4


def test_arms_get_their_shares() -> None:
    arms = {"control": 0.7, "a": 0.2, "b": 0.1}
    counts = np.bincount(assign(Experiment("many", arms), USERS), minlength=3)

    assert stats.chisquare(counts, np.array([0.7, 0.2, 0.1]) * len(USERS)).pvalue > 1e-4


def test_arms_of_two_experiments_are_independent() -> None:
    first, second = (assign(Experiment(name, HALVES), USERS) for name in ("spring", "summer"))
    table = np.histogram2d(first, second, bins=2)[0]

    assert stats.chi2_contingency(table).pvalue > 1e-4


def test_parts_of_a_layer_share_no_user_and_their_arms_do_not_depend_on_the_layer() -> None:
    low = assign(Experiment("low", HALVES, "calls", 0.0, 0.4), USERS)
    high = assign(Experiment("high", HALVES, "calls", 0.4, 1.0), USERS)

    assert ((low >= 0) != (high >= 0)).all()
    assert (low >= 0).mean() == pytest.approx(0.4, abs=0.015)
    assert (low[low >= 0] == 1).mean() == pytest.approx(0.5, abs=0.02)


def test_other_layers_cut_across() -> None:
    calls = assign(Experiment("calls", HALVES, "calls", 0.0, 0.5), USERS) >= 0
    pages = assign(Experiment("pages", HALVES, "pages", 0.0, 0.5), USERS) >= 0

    assert stats.chi2_contingency(np.histogram2d(calls, pages, bins=2)[0]).pvalue > 1e-4


def test_a_wider_part_keeps_those_who_were_in() -> None:
    narrow = assign(Experiment("calls", HALVES, "calls", 0.0, 0.1), USERS)
    wide = assign(Experiment("calls", HALVES, "calls", 0.0, 0.5), USERS)

    assert (wide[narrow >= 0] == narrow[narrow >= 0]).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("", HALVES), "needs a name"),
        (("x", {"a": 1.0}), "has 1 arm"),
        (("x", {"a": 0.5, "b": 0.4}), "sum to 0.9"),
        (("x", {"a": 1.5, "b": -0.5}), "share of 1.5"),
        (("x", HALVES, "l", 0.5, 0.5), r"takes \[0.5, 0.5\)"),
    ],
)
def test_what_is_no_experiment_is_refused(arguments: tuple[object, ...], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Experiment(*arguments)  # type: ignore[arg-type]
