"""Limits, and how far chance alone may go without an alarm."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from qanchor.home import Home
from qanchor.metrics import expected_calibration_error, psi
from qanchor.monitoring.checks import (
    at_least,
    at_most,
    calibration_error,
    calibration_error_by_chance,
    psi_by_chance,
    unknown,
)
from qanchor.monitoring.drift import score_drift
from qanchor.monitoring.freshness import active_users
from qanchor.storage.event_log import EventLog
from qanchor.workspace import MonitorSpec
from tests.unit.embedding.world import add_events, day, make_workspace


@pytest.mark.parametrize(("value", "state"), [(0.25, "ok"), (0.2500001, "alarm"), (0.0, "ok")])
def test_a_figure_at_its_limit_is_fine(value: float, state: str) -> None:
    assert at_most("psi", value, 0.25).state == state
    assert at_least("share", -value, -0.25).state == state


def test_what_chance_may_do_is_no_alarm_and_is_said() -> None:
    check = at_most("psi", 0.3, 0.25, "few rows", chance=0.4)
    assert (check.state, "by chance" in check.note) == ("ok", True)
    assert at_most("psi", 0.41, 0.25, chance=0.4).state == "alarm"


def test_a_figure_says_itself_in_words() -> None:
    assert str(at_most("psi", 0.3, 0.25)) == "psi is 0.3, must be at most 0.25"
    assert str(at_least("share", 0.5, 0.9)) == "share is 0.5, must be at least 0.9"
    assert str(unknown("psi", "no rows")) == "psi is unknown"


@pytest.mark.parametrize(("expected", "actual"), [(100, 100), (800, 3000), (300, 120)])
def test_samples_of_one_distribution_hardly_ever_exceed_what_chance_may_do(
    expected: int, actual: int
) -> None:
    random, chance = np.random.default_rng(expected), psi_by_chance(expected, actual)
    moved = [psi(random.beta(2, 8, expected), random.beta(2, 8, actual)) for _ in range(800)]
    # One in a thousand is meant.
    assert sum(value > chance for value in moved) <= 5
    assert 0.5 * chance < np.quantile(moved, 0.99) < chance


def test_a_shift_that_matters_is_seen_in_few_rows() -> None:
    random = np.random.default_rng(1)
    moved = [
        score_drift(random.beta(2, 8, 800), random.beta(4, 8, 300), MonitorSpec()).state for _ in range(10)
    ]
    assert set(moved) == {"alarm"}


def test_fewer_than_a_hundred_scores_are_not_judged() -> None:
    many, few = np.linspace(0, 1, 500), np.ones(99)
    assert score_drift(many, few, MonitorSpec()).state == "unknown"
    assert score_drift(few, many, MonitorSpec()).state == "unknown"
    assert psi(many, few) > 1


def test_the_calibration_error_is_that_of_the_metrics_and_takes_one_class_too() -> None:
    random = np.random.default_rng(2)
    scores = random.random(500)
    labels = (random.random(500) < scores).astype(np.int64)
    assert calibration_error(labels, scores) == pytest.approx(
        expected_calibration_error(labels, scores), abs=1e-12
    )
    assert calibration_error(np.zeros(4, np.int64), np.full(4, 0.25)) == pytest.approx(0.25)


@pytest.mark.parametrize("rows", [100, 2000])
def test_honest_scores_hardly_ever_exceed_the_error_that_chance_may_make(rows: int) -> None:
    random, beyond, errors = np.random.default_rng(rows), 0, []
    for _ in range(300):
        scores = random.beta(2, 6, rows)
        labels = (random.random(rows) < scores).astype(np.int64)
        errors.append(calibration_error(labels, scores))
        beyond += errors[-1] > calibration_error_by_chance(scores, draws=1000)
    assert beyond <= 3
    assert 0.5 * calibration_error_by_chance(scores) < np.quantile(errors, 0.95)


def test_users_are_active_by_events_within_the_window_before_the_moment(tmp_path: Path) -> None:
    home, workspace = Home(tmp_path / "home"), make_workspace(tmp_path / "repo")
    log = EventLog(home.events, workspace)
    assert active_users(log, day(20), 7).to_pylist() == []
    rows = [("early", 12.9), ("first", 13.0), ("both", 1.0), ("both", 15.0), ("last", 19.9), ("late", 20.0)]
    add_events(home, workspace, [(user, moment, "bill") for user, moment in rows])
    assert active_users(log, day(20), 7).to_pylist() == ["both", "first", "last"]
    assert active_users(log, day(40), 7).type == pa.string()
